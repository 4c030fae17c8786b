"""The images, built for real: what is in them, what is not, and that they serve as whoever the chart lets them be."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.image.engines import Engine, run

pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]

VERSION = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]["version"]
BUDGET_MB = {"gateway": 220, "replica": 1500}
"""What an image may hold beyond its base; the replica's is for CPUs."""
BUILD_TOOLS = ("gcc", "cc", "c++", "clang", "ld", "as", "make", "cargo", "rustc", "go")


@pytest.fixture
def ports() -> tuple[int, int]:
    """Two that are free."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


@contextmanager
def started(engine: Engine, *command: str, **environment: int) -> Iterator[subprocess.Popen[str]]:
    """A process of the gateway's image."""
    variables = {f"HEADRACE_{name}": str(value) for name, value in environment.items()}
    process = engine.start("gateway", *command, environment=variables)
    try:
        yield process
    finally:
        engine.signal(process, signal.SIGKILL)
        process.communicate()


def healthy(engine: Engine, address: str, bound_s: float = 30) -> bool:
    """Whether the image's own health command says so before long, asked of this address."""
    test = engine.configuration("gateway")["Healthcheck"]["Test"]
    end = time.monotonic() + bound_s
    while time.monotonic() < end:
        process = engine.start("gateway", *test[1:], address)
        process.communicate(timeout=60)
        if process.returncode == 0:
            return True
    return False


def test_it_is_nobody_with_more_rights_and_can_write_nothing_but_its_folders(engine: Engine, target: str) -> None:
    assert engine.configuration(target)["User"] == "10001:10001"
    assert run(engine, target, "id").startswith("uid=10001(headrace) gid=10001(headrace)")
    assert "NoNewPrivs:\t1" in run(engine, target, "cat", "/proc/self/status")
    run(engine, target, "sh", "-c", "touch /tmp/a /var/lib/headrace/a && ! touch /opt/headrace/a 2>/dev/null")


def test_its_entry_point_is_headrace(engine: Engine, target: str) -> None:
    configured = engine.configuration(target)

    assert configured["Entrypoint"] == ["headrace"]
    assert configured["StopSignal"] in {"SIGTERM", "15"}
    assert run(engine, target, "headrace", "--version").strip() == VERSION


def test_no_file_in_it_gives_rights_away(engine: Engine, target: str) -> None:
    searched = "find / -xdev -type f -perm /6000; find /opt/headrace /models -perm /022 -not -type l"

    assert run(engine, target, "sh", "-c", f"({searched}) 2>/dev/null; true") == ""


def test_it_holds_nothing_that_builds_and_nothing_that_building_left(engine: Engine, target: str) -> None:
    tools = "; ".join(f"command -v {tool}" for tool in BUILD_TOOLS)
    left = "ls -d /opt/tools /source /dist /wheels /etc/pip.conf"

    assert run(engine, target, "sh", "-c", f"({tools}; {left}) 2>/dev/null; true") == ""
    assert run(engine, target, "python", "-c", "import importlib.util as u; print(u.find_spec('pip'))") == "None\n"


def test_it_keeps_to_its_budget(engine: Engine, target: str) -> None:
    listed = run(engine, target, "sh", "-c", "du -xsm /opt/headrace /models 2>/dev/null; true")
    size_mb = sum(int(line.split()[0]) for line in listed.splitlines())

    print(f"{target}: {size_mb} MB beyond its base")  # noqa: T201  the figure of docs/operations.md
    assert size_mb <= BUDGET_MB[target]


def test_the_gateway_has_neither_ray_nor_torch(engine: Engine, gateway: str) -> None:
    asked = "import importlib.util as u; print([n for n in ('ray', 'torch', 'headrace') if u.find_spec(n)])"

    assert run(engine, gateway, "python", "-c", asked) == "['headrace']\n"


def test_control_and_a_gateway_start_are_healthy_and_drain(
    engine: Engine, gateway: str, ports: tuple[int, int]
) -> None:
    control_port, gateway_port = ports
    control_address, gateway_address = (f"127.0.0.1:{port}" for port in ports)
    front = ["headrace", gateway, "--control", control_address]
    with (
        started(engine, "headrace", "control", CONTROL__PORT=control_port) as control,
        started(engine, *front, GATEWAY__PORT=gateway_port, GATEWAY__METRICS_PORT=0) as door,
    ):
        assert healthy(engine, control_address)
        assert healthy(engine, gateway_address)
        for process in (door, control):
            engine.signal(process, signal.SIGTERM)
        assert [process.wait(timeout=40) for process in (door, control)] == [0, 0]


def test_the_replica_has_the_shipped_models_and_finds_them_in_order(engine: Engine, replica: str) -> None:
    checked = json.loads(run(engine, replica, "headrace", "models", "check", "/models", "--json"))

    assert {one["model"] for one in checked} == {"acceptance", "fraud-gru", "fraud-tx"}
    assert all(one["servable"] for one in checked)
