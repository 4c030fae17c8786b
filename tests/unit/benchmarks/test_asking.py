"""What is asked survives its file, and the answers expected are the model's own."""

from __future__ import annotations

from pathlib import Path

import asking
import numpy as np
import pytest
import serialised
from tritonclient.grpc import service_pb2


@pytest.fixture
def written(tmp_path: Path) -> Path:
    with np.load(asking.W1 / "golden.npz") as golden:
        rows = [({"events": golden["input.events"][i : i + 1]}, {}) for i in range(4)]
    return asking.write(tmp_path / "w1.npz", asking.W1, rows)


def test_the_expected_answers_are_the_golden_ones(written: Path) -> None:
    found = serialised.load(written)
    with np.load(asking.W1 / "golden.npz") as golden:
        assert np.allclose(found.expected["score"], golden["output.score"][:4], atol=1e-5)
        message = service_pb2.ModelInferRequest.FromString(found.requests[2])
        assert message.model_name == "w1-encoder"
        assert message.raw_input_contents[0] == golden["input.events"][2].tobytes()
    assert found.tolerance == {"score": serialised.FP32_BATCHED}


def test_a_refusable_request_is_the_same_with_a_microsecond_to_live(written: Path, tmp_path: Path) -> None:
    refused = serialised.load(asking.refusable(written, tmp_path / "refused.npz"))
    for before, after in zip(serialised.load(written).requests, refused.requests, strict=True):
        message = service_pb2.ModelInferRequest.FromString(after)
        assert message.parameters["timeout"].int64_param == 1
        del message.parameters["timeout"]
        assert message == service_pb2.ModelInferRequest.FromString(before)


def test_only_the_newest_events_of_one_axis_are_kept() -> None:
    row = ({"card_ts": np.arange(9), "merchant_ts": np.arange(9), "merchant_stats": np.zeros((1, 8))}, {"card": 9})
    columns, lengths = asking.newest(row, "card", 4)
    assert columns["card_ts"].tolist() == [5, 6, 7, 8]
    assert len(columns["merchant_ts"]) == 9
    assert lengths == {"card": 4}
