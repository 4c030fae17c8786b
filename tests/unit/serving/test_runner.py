"""One batch through the runner: nobody's trouble is another's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headrace.errors import BrokenContract, ModelFailed, StartupError
from headrace.serving.runner import Runner
from headrace.serving.warmup import warm_up
from headrace.v1 import replica_pb2
from headrace_models import spec as disk

OK, EXPIRED, NOT_FINITE, FAILED = 0, 1, 2, 3
SPEC = disk.ModelSpec(
    name="sum",
    version=1,
    factory="",
    inputs=(
        disk.TensorSpec("events", "FP32", (-1, 2), axis="events"),
        disk.TensorSpec("key", "FP32", (1,)),
    ),
    outputs=(disk.TensorSpec("sum", "FP32", (1,)),),
    weights="",
    digest="",
    golden="",
    axes=(disk.Axis("events", 8),),
)


class Sum(nn.Module):
    """Adds a row's events and its key; raises where a key is 13, answers NaN where it is 7."""

    def forward(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> dict[str, Tensor]:
        key = inputs["key"]
        if (key == 13).any():
            raise RuntimeError("unlucky")
        rows = torch.repeat_interleave(torch.arange(len(key)), lengths["events"])
        total = torch.zeros(len(key), 1).index_add(0, rows, inputs["events"].sum(1, keepdim=True))
        return {"sum": torch.where(key == 7, torch.nan, total + key)}


def batch(lengths: list[int], keys: list[float], remaining_s: list[float] | None = None) -> replica_pb2.PackedBatch:
    return replica_pb2.PackedBatch(
        rows=len(keys),
        columns=[np.ones((sum(lengths), 2), "<f4").tobytes(), np.array(keys, "<f4").tobytes()],
        lengths=[np.array(lengths, "<i4").tobytes()],
        remaining_s=np.array(remaining_s or [np.inf] * len(keys), "<f8").tobytes(),
    )


def run(message: replica_pb2.PackedBatch, waited_s: float = 0.0) -> tuple[list[float], list[int]]:
    computed = Runner(Sum(), SPEC, "cpu").run(message, waited_s)
    return np.frombuffer(computed.columns[0], "<f4").tolist(), list(computed.status)


def test_every_row_gets_its_own_answer_empty_ones_too() -> None:
    assert run(batch([2, 0, 3], [10, 20, 30])) == ([14, 20, 36], [OK, OK, OK])


def test_a_row_out_of_time_is_left_out_before_the_forward_pass() -> None:
    assert run(batch([1, 1, 1], [1, 13, 3], [1.0, 0.01, 1.0]), waited_s=0.5) == ([3, 0, 5], [OK, EXPIRED, OK])


def test_a_batch_out_of_time_runs_nothing() -> None:
    assert run(batch([1], [13], [0.01]), waited_s=0.5) == ([0], [EXPIRED])


def test_a_row_that_makes_the_module_raise_is_found_and_its_mates_answered() -> None:
    assert run(batch([1, 2, 1], [1, 13, 3])) == ([3, 0, 5], [OK, FAILED, OK])


@pytest.mark.parametrize("keys", [[1, 2, 13], [13, 1, 2], [1, 2, 3]])
def test_stages_follow_one_another_whichever_row_raises(keys: list[float]) -> None:
    runner = Runner(Sum(), SPEC, "cpu")
    for _ in range(2):  # what the batch before left behind is gone
        runner.run(batch([1, 2, 1], keys), 0.0)
        stages = runner.stopwatch.read()

        assert list(stages) == sorted(stages)
        assert stages.unpacked_ns > 0


@pytest.mark.parametrize("key", [7, np.inf, -np.inf])
def test_an_answer_that_is_not_finite_is_never_passed_on(key: float) -> None:
    assert run(batch([1, 1, 1], [2, key, 1])) == ([4, 0, 3], [OK, NOT_FINITE, OK])


@pytest.mark.parametrize("remaining_s", [[1.0, np.nan], [np.nan, 1.0]])
def test_a_row_whose_time_is_no_number_has_none_left(remaining_s: list[float]) -> None:
    _, status = run(batch([1, 1], [1, 2], remaining_s))

    assert status == [EXPIRED if np.isnan(left) else OK for left in remaining_s]


def test_a_batch_without_rows_is_answered_with_none() -> None:
    assert run(batch([], [])) == ([], [])


def test_an_answer_of_another_datatype_and_order_in_memory_is_sent_as_the_spec_says() -> None:
    class Wide(nn.Module):
        def forward(self, inputs: dict[str, Tensor], _: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"pair": torch.stack([inputs["key"][:, 0].double(), -inputs["key"][:, 0].double()]).T}

    spec = replace(SPEC, outputs=(disk.TensorSpec("pair", "FP32", (2,)),))
    computed = Runner(Wide(), spec, "cpu").run(batch([1, 1], [3, 4]), 0.0)

    assert np.frombuffer(computed.columns[0], "<f4").tolist() == [3, -3, 4, -4]


def test_a_batch_that_fails_whole_is_a_failure_of_the_model() -> None:
    with pytest.raises(ModelFailed, match="raised RuntimeError"):
        run(batch([1], [13]))
    with pytest.raises(ModelFailed, match="on every row"):
        run(batch([1, 1], [13, 13]))


def test_columns_that_do_not_fit_the_spec_are_refused() -> None:
    short = batch([2], [1])
    short.columns[0] = short.columns[0][:8]
    uneven = batch([2], [1])
    uneven.columns[1] = b"123"

    for broken in (short, uneven, replica_pb2.PackedBatch(rows=1)):
        with pytest.raises(BrokenContract):
            run(broken)


def test_a_warm_up_that_fails_stops_the_start() -> None:
    class Broken(nn.Module):
        def forward(self, *_: object) -> None:
            raise ValueError("no")

    with pytest.raises(StartupError, match="sum/1: warm-up with 1 rows failed: ValueError: no"):
        warm_up(Runner(Broken(), SPEC, "cpu"), SPEC)
