"""The examples of examples/, by NVIDIA's own client, against a real gateway and a real replica."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.conftest import ROOT

from headrace.telemetry import reading

pytestmark = pytest.mark.slow

FREE_PORTS = {f"HEADRACE_{name}": "0" for name in ("GATEWAY__PORT", "GATEWAY__METRICS_PORT", "CONTROL__PORT")}
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it is served from: models, traces."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """`headrace serve` with the two models that the examples ask."""
    names = ["sum-difference", "simple_string"]
    for name in names:
        shutil.copytree(ROOT / "tests" / "fixtures" / "models" / name, folder / "models" / name)
    environment = {
        **os.environ,
        **FREE_PORTS,
        "HEADRACE_CONTROL__MODEL_CONTROL": "explicit",
        "HEADRACE_TELEMETRY__LOG_LEVEL": "ERROR",
        "PYTHONUNBUFFERED": "1",
    }
    only = [word for name in names for word in ("--only", name)]
    command = [
        sys.executable,
        "-m",
        "headrace",
        "serve",
        "--engine",
        "local",
        "--models",
        str(folder / "models"),
        *only,
    ]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield next(found[1] for line in server.stdout if (found := re.search(r"serves on (\S+)", line)))
        finally:
            server.terminate()
            server.communicate(timeout=60)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A file of examples/, imported as if its folder were where it runs."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    for name in EXAMPLES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return import_module


LEFTS = [np.arange(16, dtype=np.int32)[None] * factor for factor in range(1, 21)]
RIGHT = np.full((1, 16), 3, np.int32)
SUMS = [left + RIGHT for left in LEFTS]


def test_infer(address: str, example: Any) -> None:
    infer = example("infer")
    left = np.random.default_rng(1).integers(-1000, 1000, (5, 16), np.int32)
    right = left[::-1].copy()

    total, difference = infer.infer(address, left, right)

    np.testing.assert_array_equal(total, left + right)
    np.testing.assert_array_equal(difference, left - right)
    assert infer.infer_wrongly(address).startswith(
        "StatusCode.INVALID_ARGUMENT: [request id: <id_unknown>] unexpected shape"
    )


def test_async(address: str, example: Any) -> None:
    asynchronous = example("async_infer")

    np.testing.assert_array_equal(asynchronous.infer_with_callbacks(address, LEFTS, RIGHT), SUMS)
    np.testing.assert_array_equal(asyncio.run(asynchronous.infer_with_asyncio(address, LEFTS, RIGHT)), SUMS)
    assert any(asynchronous.cancel_one(address, LEFTS[0], RIGHT) for _ in range(20))


def test_stream(address: str, example: Any) -> None:
    stream, short = example("stream"), np.zeros((1, 15), np.int32)

    outcomes = stream.infer_on_a_stream(address, [*LEFTS[:3], short, *LEFTS[3:]], RIGHT)
    error = outcomes.pop(3)

    assert isinstance(error, triton.InferenceServerException)
    assert "unexpected shape for input 'INPUT0' for model 'sum-difference'" in error.message()
    np.testing.assert_array_equal([outcome.as_numpy("OUTPUT0") for outcome in outcomes], SUMS)
    np.testing.assert_array_equal(asyncio.run(stream.infer_on_a_stream_with_asyncio(address, LEFTS, RIGHT)), SUMS)
    ended = stream.stop_at_the_first_error(address, [LEFTS[0], short, LEFTS[1]], RIGHT)
    assert ended.status() == "StatusCode.INVALID_ARGUMENT"


def test_strings(address: str, example: Any) -> None:
    left = [[str(row * place) for place in range(16)] for row in (7, -100)]
    right = [[str(place) for place in range(16)] for _ in left]

    total, difference = example("strings").infer_strings(address, left, right)

    pairs = [list(zip(map(int, a), map(int, b), strict=True)) for a, b in zip(left, right, strict=True)]
    assert total == [[str(a + b) for a, b in row] for row in pairs]
    assert difference == [[str(a - b) for a, b in row] for row in pairs]


def test_health(address: str, example: Any) -> None:
    health = example("health")

    assert health.is_ready(address)
    said = health.describe(address)
    assert said["server"]["name"] == "headrace"
    assert {"sequence", "statistics", "trace", "logging"} <= set(said["server"]["extensions"])
    assert [tensor["name"] for tensor in said["model"]["inputs"]] == ["INPUT0", "INPUT1"]
    assert said["config"]["max_batch_size"] == 64
    assert ("sum-difference", "READY") in [(model["name"], model.get("state")) for model in said["index"]["models"]]
    assert said["statistics"]["model_stats"][0]["name"] == "sum-difference"


def test_custom_arguments(address: str, folder: Path, example: Any) -> None:
    result = example("custom_arguments").infer_with_arguments(address, LEFTS[1], RIGHT)

    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), SUMS[1])
    assert result.get_response().id == "order-66"
    traces: list[Any] = []
    while not traces:  # it is told within a second
        time.sleep(0.05)
        traces = list(reading.find(folder / "build" / "traces", "0af7651916cd43dd8448eb211c80319c"))
    assert traces[0].rpc.parent_id == "b7ad6b7169203331"


def test_keepalive(address: str, example: Any) -> None:
    np.testing.assert_array_equal(example("keepalive").infer_with_keepalive(address, LEFTS[2], RIGHT), SUMS[2])


def test_model_control(address: str, example: Any) -> None:
    control = example("model_control")

    assert control.reload(address) == [True, False, True]
    assert "nobody" in control.load_what_is_not_there(address)


def test_every_example_is_listed_and_runs_by_itself(address: str, root: Path) -> None:
    readme = (root / "examples" / "README.md").read_text()

    assert sorted(re.findall(r"\[(\w+)\.py\]", readme)) == EXAMPLES
    for together in (set(EXAMPLES) - {"model_control"}, {"model_control"}):  # what it unloads nobody else may ask
        running = [
            subprocess.Popen([sys.executable, root / "examples" / f"{name}.py", address], stderr=subprocess.PIPE)
            for name in together
        ]
        assert [(one.communicate(timeout=60)[1], one.returncode) for one in running] == [(b"", 0)] * len(together)
