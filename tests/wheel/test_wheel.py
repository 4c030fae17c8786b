"""What is released: a wheel made of the source archive scores against a gateway from an environment with nothing else.

An internal caller installs just that. Run by `make wheel-test`; nothing of the checkout is on the client's path.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from services import dist

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(600)]

CALL = """
import json, sys
from headrace.client import SyncScoringClient
payment = {"event_id": "p", "ts": "2026-03-01T12:00:00Z", "card_id": "c", "merchant_id": "m", "currency": "EUR",
           "mcc": 5411, "country": "FR", "channel": "chip", "amount": 1.0}
with SyncScoringClient(sys.argv[1], timeout_s=10) as client:
    found = client.score(payment)
print(json.dumps([found.p, found.score, found.model, found.version]))
"""
SERVERS = ("ray", "torch", "pydantic", "typer", "uvloop", "hpack", "opentelemetry.sdk")
"""None of the base install."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source archive, and the wheel made of it alone."""
    return dist.build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def client(built: tuple[Path, Path]) -> Path:
    """The interpreter of an environment that holds the wheel and what it needs."""
    _, wheel = built
    folder = wheel.parent / "client"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--constraint", str(dist.ROOT / "requirements.lock"), str(wheel)], check=True)
    return python


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[str]:
    """The address of a gateway that serves fraud-tx, from the checkout."""
    ports = {f"HEADRACE_{name}": "0" for name in ("GATEWAY__PORT", "GATEWAY__METRICS_PORT", "CONTROL__PORT")}
    command = [sys.executable, "-m", "headrace", "serve", "--engine", "local", "--only", "fraud-tx"]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **ports}, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready = next(filter(None, (re.search(r"headrace serves on (\S+)", line) for line in process.stdout)))
        yield ready.group(1)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_the_archive_holds_the_packages_and_neither_weights_nor_tests(built: tuple[Path, Path]) -> None:
    archive, _ = built
    listed = subprocess.run(["tar", "-tzf", archive], capture_output=True, text=True, check=True).stdout.splitlines()
    inside = {name.split("/", 1)[1] for name in listed}

    assert {"services/headrace/client.py", "models/headrace_models/wire.py", "LICENSE", "pyproject.toml"} <= inside
    assert not [name for name in inside if name.startswith(("tests/", "benchmarks/")) or name.endswith(".safetensors")]


def test_the_base_install_is_the_client_and_nothing_of_the_servers(client: Path, tmp_path: Path) -> None:
    asked = f"import importlib.util as u; print([n for n in {SERVERS} if u.find_spec(n.split('.')[0])])"

    found = subprocess.run([client, "-Ic", asked], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert found.stdout == "[]\n"


def test_a_payment_is_scored_from_nothing_but_the_wheel(client: Path, gateway: str, tmp_path: Path) -> None:
    done = subprocess.run([client, "-Ic", CALL, gateway], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    p, score, model, version = json.loads(done.stdout)
    assert 0 <= p <= 1
    assert 0 <= score <= 99
    assert (model, version) == ("fraud-tx", "1")
