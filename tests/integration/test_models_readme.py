"""The steps of models/README.md, taken word for word."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
FREE_PORTS = {f"HEADRACE_{name}": "0" for name in ("GATEWAY__PORT", "GATEWAY__METRICS_PORT", "CONTROL__PORT")}
ENVIRONMENT = {**os.environ, **FREE_PORTS, "HEADRACE_TELEMETRY__LOG_LEVEL": "ERROR", "PYTHONUNBUFFERED": "1"}


class Steps:
    """The fenced blocks: files are written below `folder`, commands are kept in order."""

    def __init__(self, text: str, folder: Path) -> None:
        self.folder = folder
        blocks = re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for kind, block in blocks:
            if kind == "python":
                path = folder / block.splitlines()[0].removeprefix("# ")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block)
        self.commands = [line for kind, block in blocks if kind == "sh" for line in block.splitlines()]
        (self.shown,) = [block for kind, block in blocks if kind == "text"]

    def start(self, command: str) -> subprocess.Popen[str]:
        name, *arguments = shlex.split(command)
        program = {"python": [sys.executable], "headrace": [sys.executable, "-m", "headrace"]}[name]
        return subprocess.Popen(
            [*program, *arguments], cwd=self.folder, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
        )

    def run(self, command: str) -> str:
        with self.start(command) as process:
            stdout, _ = process.communicate(timeout=60)
        assert process.returncode == 0, command
        return stdout


def without_numbers(text: str) -> str:
    """Times and the last digits differ from machine to machine."""
    return re.sub(r"sha256:\w+|\d[\d.,]*(e-\d+)?", "#", text)


def test_the_six_steps_lead_to_an_answer(root: Path, tmp_path: Path) -> None:
    text = (root / "models" / "README.md").read_text().split("## Event columns")[0]
    steps = Steps(text, tmp_path)
    make, check, serve = steps.commands
    steps.run(make)

    shown = steps.run(check)
    with steps.start(serve) as server:
        try:
            assert server.stdout is not None
            address = next(found[1] for line in server.stdout if (found := re.search(r"serves on (\S+)", line)))
            asked = (tmp_path / "ask.py").read_text()
            (tmp_path / "ask.py").write_text(asked.replace("127.0.0.1:8001", address))
            answer = steps.run("python ask.py")
        finally:
            server.terminate()
            server.communicate(timeout=60)

    assert answer == "[[30.]]\n"
    assert server.returncode == 0
    assert without_numbers(shown) == without_numbers(steps.shown)
