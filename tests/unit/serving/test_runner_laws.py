"""Laws of the runner: a row's answer depends on the row alone, whoever is in its batch and however they fare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import BrokenContract, ModelFailed
from headrace.serving import weights
from headrace.serving.runner import EXPIRED, FAILED, NOT_FINITE, OK, Computed, Runner
from headrace.v1 import replica_pb2
from headrace_models import spec as disk

pytestmark = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")

W2 = Path(__file__).parents[3] / "benchmarks" / "repository" / "w2-ragged" / "1"
UNLUCKY = 13
SPEC = disk.ModelSpec(
    name="m",
    version=1,
    factory="",
    weights="",
    digest="",
    golden="",
    inputs=(disk.TensorSpec("events", "FP32", (-1, 2), axis="events"), disk.TensorSpec("key", "INT64", (1,))),
    outputs=(disk.TensorSpec("key_out", "INT64", (1,)), disk.TensorSpec("sums", "FP32", (2,))),
    axes=(disk.Axis("events", 16),),
)


class Sums(torch.nn.Module):
    """The sums of a row's events, and its key; raises on an unlucky key. Keeps how many rows each call brought."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def forward(self, inputs: dict[str, torch.Tensor], lengths: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        count = len(inputs["key"])
        self.calls.append(count)
        if (inputs["key"] == UNLUCKY).any():
            raise ValueError("unlucky")
        rows = torch.repeat_interleave(torch.arange(count), lengths["events"])
        return {"key_out": inputs["key"], "sums": torch.zeros(count, 2).index_add_(0, rows, inputs["events"])}


def pack(lengths: list[int], keys: list[int], remaining_s: list[float] | None = None) -> replica_pb2.PackedBatch:
    """The events of a row are drawn from its key alone, so that it is the same row in every batch."""
    events = [np.random.default_rng(key).normal(size=(n, 2)) for n, key in zip(lengths, keys, strict=True)]
    return replica_pb2.PackedBatch(
        rows=len(keys),
        columns=[
            np.concatenate([np.empty((0, 2)), *events]).astype("<f4").tobytes(),
            np.array(keys, "<i8").tobytes(),
        ],
        lengths=[np.array(lengths, "<i4").tobytes()],
        remaining_s=np.array(remaining_s or [np.inf] * len(keys), "<f8").tobytes(),
    )


def run(batch: replica_pb2.PackedBatch, module: torch.nn.Module | None = None, waited_s: float = 0.0) -> Computed:
    return Runner(module or Sums(), SPEC, "cpu").run(batch, waited_s)


def keys_out(computed: Computed) -> list[int]:
    return np.frombuffer(computed.columns[0], "<i8").tolist()


def sums(computed: Computed) -> np.ndarray:
    return np.frombuffer(computed.columns[1], "<f4").reshape(-1, 2)


ROWS = st.lists(st.tuples(st.integers(0, 16), st.integers(14, 99)), min_size=1, max_size=12)


@given(ROWS)
def test_a_batch_of_one_is_the_row_of_any_batch(rows: list[tuple[int, int]]) -> None:
    lengths, keys = [n for n, _ in rows], [key for _, key in rows]

    together = sums(run(pack(lengths, keys)))
    alone = np.concatenate([sums(run(pack([n], [key]))) for n, key in rows])

    np.testing.assert_allclose(together, alone, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 128), min_size=1, max_size=8))
def test_a_bucketed_encoder_scores_a_row_as_if_it_were_alone(lengths: list[int]) -> None:
    model = weights.read(W2)
    runner = Runner(weights.load(model, "cpu"), model.spec, "cpu")
    events = [np.random.default_rng(n).normal(size=(n, 16)).astype("<f4") for n in lengths]

    def scores(rows: list[np.ndarray]) -> np.ndarray:
        batch = replica_pb2.PackedBatch(
            rows=len(rows),
            columns=[np.concatenate(rows).tobytes()],
            lengths=[np.array([len(row) for row in rows], "<i4").tobytes()],
            remaining_s=np.full(len(rows), np.inf, "<f8").tobytes(),
        )
        return np.frombuffer(runner.run(batch, 0).columns[0], "<f4")

    np.testing.assert_allclose(scores(events), np.concatenate([scores([row]) for row in events]), atol=1e-5)


@given(ROWS, st.data())
def test_expired_rows_are_left_out_and_the_others_do_not_move(rows: list[tuple[int, int]], data: st.DataObject) -> None:
    lengths, keys = [n for n, _ in rows], [key for _, key in rows]
    expired = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    module = Sums()

    computed = run(pack(lengths, keys, [0.001 if gone else 0.02 for gone in expired]), module, waited_s=0.01)

    whole = sums(run(pack(lengths, keys)))
    assert list(computed.status) == [EXPIRED if gone else OK for gone in expired]
    np.testing.assert_allclose(sums(computed), np.where(np.array(expired)[:, None], 0, whole), atol=1e-6)
    assert keys_out(computed) == [0 if gone else key for gone, key in zip(expired, keys, strict=True)]
    assert module.calls == ([] if all(expired) else [expired.count(False)])


def test_a_batch_with_a_bad_row_is_run_again_once_row_by_row() -> None:
    module = Sums()

    computed = run(pack([2, 3, 0, 4], [20, UNLUCKY, 21, 22]), module)

    assert list(computed.status) == [OK, FAILED, OK, OK]
    assert module.calls == [4, 1, 1, 1, 1]
    np.testing.assert_allclose(sums(computed)[[0, 2, 3]], sums(run(pack([2, 0, 4], [20, 21, 22]))), atol=1e-6)


def test_a_bad_row_next_to_an_expired_one_is_marked_in_its_own_place() -> None:
    computed = run(pack([2, 3, 4], [20, 21, UNLUCKY], [0.0, 1.0, 1.0]))

    assert list(computed.status) == [EXPIRED, OK, FAILED]


def test_a_row_that_is_not_finite_in_one_output_is_zero_in_all() -> None:
    batch = pack([1, 1, 1], [20, 21, 22])
    events = np.frombuffer(batch.columns[0], "<f4").copy()
    events[2:4] = np.nan, 1
    batch.columns[0] = events.tobytes()

    computed = run(batch)

    assert list(computed.status) == [OK, NOT_FINITE, OK]
    assert sums(computed)[1].tolist() == [0, 0]
    assert keys_out(computed) == [20, 0, 22]


def spoil(**fields: object) -> Callable[[replica_pb2.PackedBatch], replica_pb2.PackedBatch]:
    def spoiled(batch: replica_pb2.PackedBatch) -> replica_pb2.PackedBatch:
        for name, value in fields.items():
            batch.ClearField(name)
            batch.MergeFrom(replica_pb2.PackedBatch(**{name: value}))
        return batch

    return spoiled


@pytest.mark.parametrize(
    "spoiled",
    [
        spoil(lengths=[]),
        spoil(rows=3),
        spoil(lengths=[np.array([4], "<i4").tobytes()]),
        spoil(lengths=[np.array([9, 9], "<i4").tobytes()]),
        spoil(lengths=[np.array([5, -1], "<i4").tobytes()]),
        spoil(lengths=[b"123"]),
        spoil(remaining_s=b""),
        spoil(remaining_s=bytes(8)),
    ],
    ids=["no axes", "rows", "few lengths", "long lengths", "negative", "torn", "no deadlines", "few deadlines"],
)
def test_a_batch_that_does_not_fit_the_spec_never_reaches_the_module(
    spoiled: Callable[[replica_pb2.PackedBatch], replica_pb2.PackedBatch],
) -> None:
    module = Sums()

    with pytest.raises(BrokenContract):
        run(spoiled(pack([1, 3], [20, 21])), module)
    assert not module.calls


def test_an_output_of_another_shape_breaks_the_contract() -> None:
    class Wrong(Sums):
        def forward(self, *arguments: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            answers = super().forward(*arguments)
            return answers | {"sums": answers["sums"][:, :1]}

    with pytest.raises(BrokenContract, match="sums"):
        run(pack([1, 1], [20, 21]), Wrong())


def test_a_lost_device_fails_the_batch_at_once_and_is_remembered() -> None:
    class Lost(Sums):
        def forward(self, *arguments: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            super().forward(*arguments)
            raise torch.AcceleratorError("device-side assert")

    module = Lost()
    runner = Runner(module, SPEC, "cpu")

    with pytest.raises(ModelFailed, match="device"):
        runner.run(pack([1, 1], [20, 21]), 0)
    assert runner.device_lost
    assert module.calls == [2]
