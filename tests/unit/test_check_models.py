"""`headrace models check` at a prompt: a line a check; where a model can't be served one on stderr, and 78."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests import toy

from headrace import cli

Headrace = Callable[..., tuple[int, str, str]]


@pytest.fixture
def headrace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Headrace:
    """Run a command in this process: its exit code, stdout and stderr."""

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["headrace", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code: Any = ended.value.code
        return code or 0, *capsys.readouterr()

    return command


def test_a_sound_model_is_a_line_a_check_and_exit_code_0(headrace: Headrace, tmp_path: Path) -> None:
    code, stdout, stderr = headrace("models", "check", toy.write(tmp_path), "--device", "cpu")

    assert (code, stderr) == (0, "")
    assert stdout.count("✓") == 14
    assert len(stdout.splitlines()) == 15


def test_a_broken_law_is_one_line_on_stderr_that_names_the_directory(headrace: Headrace, tmp_path: Path) -> None:
    directory = toy.write(tmp_path, "amount.mul_(2)")
    code, stdout, stderr = headrace("models", "check", tmp_path)

    assert code == 78
    assert stderr == f"headrace: {directory}: inputs untouched: the module writes to input.amount\n"
    assert "✗ inputs untouched" in stdout


def test_what_a_file_lacks_is_said_once_and_the_others_are_counted(headrace: Headrace, tmp_path: Path) -> None:
    sound, broken = toy.write(tmp_path / "a"), toy.write(tmp_path / "b", "total = total + 0.1 * count.max()")
    toy.respell(sound, max_rows="many")
    both = tmp_path / "c"
    both.mkdir()
    for number, version in enumerate((sound, broken)):
        version.parent.rename(both / f"toy{number}")
    toy.respell(both / "toy1" / "1", name="toy1")

    code, stdout, stderr = headrace("models", "check", both)

    assert code == 78
    assert stderr == (
        f"headrace: {both / 'toy0' / '1' / 'spec.yaml'}: max_rows: expected an integer, got 'many' (and 3 more)\n"
    )
    assert "✗ padding" in stdout


def test_json_says_the_same_to_a_machine(headrace: Headrace, tmp_path: Path) -> None:
    toy.write(tmp_path, "amount.mul_(2)")
    code, stdout, stderr = headrace("models", "check", tmp_path / "toy", "--json")

    (version,) = json.loads(stdout)
    assert code == 78
    assert stderr.count("\n") == 1
    assert (version["model"], version["version"], version["servable"]) == ("toy", "1", False)
    states = {each["name"]: each["status"] for each in version["checks"]}
    assert states.pop("inputs untouched") == "failed"
    assert set(states.values()) == {"ok"}
    assert version["checks"][3]["figures"] == {"rows": 5, "worst": 0.0, "tolerance": 1e-5}


def test_a_directory_without_a_model_is_one_line(headrace: Headrace, tmp_path: Path) -> None:
    code, stdout, stderr = headrace("models", "check", tmp_path)

    assert (code, stdout) == (78, "")
    assert stderr == f"headrace: {tmp_path}: no model (expected spec.yaml, or <model>/<version>/spec.yaml)\n"


def test_without_a_subcommand_a_gateway_is_asked(headrace: Headrace) -> None:
    code, _, stderr = headrace("models", "--address", "127.0.0.1:1")

    assert code == 1
    assert stderr.startswith("headrace: 127.0.0.1:1 does not answer")


def test_serving_only_a_model_that_is_not_there_is_refused_with_what_there_is(headrace: Headrace) -> None:
    code, _, stderr = headrace("serve", "--only", "fraud-tx", "--only", "nobody", "--engine", "local")

    assert code == 78
    assert stderr == "headrace: only: there is no model 'nobody' (there is acceptance, fraud-gru, fraud-tx)\n"
