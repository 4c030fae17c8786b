"""Strings and bfloat16 from a client of Triton's through a gateway and a replica process to a module, and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.utils as triton_utils
from tests import words

from headrace import config
from headrace.cluster import Cluster

pytestmark = pytest.mark.slow
Run = Callable[..., Any]
FREE_PORTS = {"gateway__port": 0, "gateway__metrics_port": 0, "control__port": 0, "control__ledger": ":memory:"}


def tensor(name: str, datatype: str, values: np.ndarray) -> triton.InferInput:
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def question(names: list[bytes], tags: list[list[bytes]], factor: float) -> list[triton.InferInput]:
    return [
        tensor("name", "BYTES", np.array(names, np.object_)),
        tensor("tags", "BYTES", np.array(tags, np.object_).reshape(len(names), -1)),
        tensor("factor", "BF16", np.full((len(names), 1), factor, ml_dtypes.bfloat16)),
    ]


def test_a_client_of_tritons_asks_a_model_of_strings(run: Run, tmp_path: Path) -> None:
    words.write(tmp_path / "models")
    telemetry = {"telemetry__trace_dir": tmp_path / "traces", "telemetry__log_level": "ERROR"}
    settings = config.load(
        None, {}, engine="local", model_dirs=[tmp_path / "models"], only=["words"], **telemetry, **FREE_PORTS
    )
    asked = [
        question([b"fraud"], [[b"ab", b"c"]], 0.5),
        question(["café".encode(), b""], [[], []], 2.0),
        question([b"x" * 8] * 3, [[b"12345"] * 6] * 3, 1.0),  # two more than the cap
    ]

    async def main() -> list[Any]:
        async with Cluster(settings) as running, triton_aio.InferenceServerClient(running.address) as client:
            return [await client.infer("words", inputs) for inputs in asked]

    answers = run(main(), timeout_s=120)

    assert [answer.as_numpy("said").tolist() for answer in answers] == [
        [b"duarf"],
        ["café".encode()[::-1], b""],
        [b"x" * 8] * 3,
    ]
    assert [answer.as_numpy("half").astype(float).ravel().tolist() for answer in answers] == [
        [0.5 * 8],
        [10.0, 0.0],
        [28.0] * 3,
    ]
    assert answers[2].get_response().parameters["headrace_truncated_tags"].int64_param == 2
    assert [answer.as_numpy("next").ravel().tolist() for answer in answers] == [[1], [1, 1], [1, 1, 1]]


def test_nvidias_simple_string_adds_up_what_is_written(run: Run, tmp_path: Path, root: Path) -> None:
    """The model of NVIDIA's string example, asked as its client asks: one row, and text in an object array."""
    telemetry = {"telemetry__trace_dir": tmp_path / "traces", "telemetry__log_level": "ERROR"}
    models = root / "tests" / "fixtures" / "models"
    settings = config.load(
        None, {}, engine="local", model_dirs=[models], only=["simple_string"], **telemetry, **FREE_PORTS
    )
    left, right = np.arange(16), np.full(16, -3)
    inputs = [
        tensor(name, "BYTES", np.array([str(number).encode() for number in numbers], np.object_).reshape(1, 16))
        for name, numbers in (("INPUT0", left), ("INPUT1", right))
    ]
    spoilt = [inputs[0], tensor("INPUT1", "BYTES", np.array([[b"x"] * 16], np.object_))]

    async def main() -> Any:
        async with Cluster(settings) as running, triton_aio.InferenceServerClient(running.address) as client:
            with pytest.raises(triton_utils.InferenceServerException, match="the model failed on this"):
                await client.infer("simple_string", spoilt)
            return await client.infer("simple_string", inputs)

    answer = run(main(), timeout_s=120)

    assert answer.as_numpy("OUTPUT0").astype(int).tolist() == [(left + right).tolist()]
    assert answer.as_numpy("OUTPUT1").astype(int).tolist() == [(left - right).tolist()]
