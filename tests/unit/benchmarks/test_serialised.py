"""An answer without its bytes is wrong: nothing compares equal to nothing here."""

from __future__ import annotations

import numpy as np
import pytest
from serialised import Questions
from tritonclient.grpc import service_pb2

ASKED = Questions([b""], {"score": np.array([[0.5]], np.float32)}, {"score": 1e-4})


@pytest.mark.parametrize(
    ("raw", "right"),
    [([0.5], True), ([0.50005], True), ([0.6], False), ([float("nan")], False), ([], False), ([0.5, 0.5], False)],
)
def test_an_answer_has_every_byte_and_is_near(raw: list[float], right: bool) -> None:  # noqa: FBT001
    answer = service_pb2.ModelInferResponse()
    answer.outputs.add(name="score", datatype="FP32", shape=[1, 1])
    answer.raw_output_contents.append(np.array(raw, np.float32).tobytes())

    assert ASKED.is_right(0, answer.SerializeToString()) is right
