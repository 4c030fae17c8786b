"""A packed batch, at the replica's runner: an error by name, or every row's own answer; and the next batch is right."""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from typing import Final

import numpy as np
from google.protobuf.message import DecodeError
from tests.fuzz.targets.target import Target
from torch import Tensor, nn, repeat_interleave, stack, zeros
from torch import arange as places

from headrace.errors import HeadraceError
from headrace.serving.runner import Computed, Runner
from headrace.v1 import replica_pb2
from headrace_models import spec as disk

OK, EXPIRED, NOT_FINITE = replica_pb2.ROW_STATUS_OK, replica_pb2.ROW_STATUS_EXPIRED, replica_pb2.ROW_STATUS_NOT_FINITE
SPEC: Final = disk.ModelSpec(
    name="count",
    version=1,
    factory="",
    inputs=(disk.TensorSpec("amounts", "FP32", (-1,), axis="events"), disk.TensorSpec("key", "INT64", (1,))),
    outputs=(disk.TensorSpec("key", "INT64", (1,)), disk.TensorSpec("total", "FP32", (1,))),
    weights="",
    digest="",
    golden="",
    axes=(disk.Axis("events", 8),),
    max_rows=16,
    max_tokens=64,
    extras=(disk.TensorSpec("events", "FP32", (1,), costs_rows=1),),
)


class Count(nn.Module):
    """Gives back a row's key, and the total of its amounts."""

    def forward(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> dict[str, Tensor]:
        count = lengths["events"]
        rows = repeat_interleave(places(len(count)), count)
        total = zeros(len(count)).index_add(0, rows, inputs["amounts"])
        return {"key": inputs["key"].clone(), "total": total[:, None]}

    def extras(self, _: dict[str, Tensor], lengths: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"events": stack([lengths["events"].float()], 1)}


@lru_cache(maxsize=1)
def runner() -> Runner:
    """One for all: what a batch leaves behind, the next one meets."""
    return Runner(Count(), SPEC, "cpu")


def batch(lengths: list[int], remaining_s: float = math.inf, wants: bytes = b"") -> replica_pb2.PackedBatch:
    rows = len(lengths)
    return replica_pb2.PackedBatch(
        replica_id="r",
        model="count",
        version="1",
        rows=rows,
        columns=[np.arange(sum(lengths), dtype="<f4").tobytes(), np.arange(100, 100 + rows, dtype="<i8").tobytes()],
        lengths=[np.array(lengths, "<i4").tobytes()],
        remaining_s=np.full(rows, remaining_s, "<f8").tobytes(),
        wants_extras=wants,
        batch_id=9,
    )


GOOD: Final = batch([2, 0, 3])


def check(data: bytes) -> None:
    try:
        message = replica_pb2.PackedBatch.FromString(data)
    except DecodeError:
        return
    try:
        computed = runner().run(message, 0.5)
    except HeadraceError:
        pass
    else:
        _check_rows(message, computed)
    _check_rows(GOOD, runner().run(GOOD, 0.0))


def _check_rows(message: replica_pb2.PackedBatch, computed: Computed) -> None:
    """Each row against its own bytes, read one by one."""
    rows = message.rows
    lengths = struct.unpack(f"<{rows}i", message.lengths[0])
    keys = struct.unpack(f"<{rows}q", message.columns[1])
    remaining_s = struct.unpack(f"<{rows}d", message.remaining_s)
    assert rows <= SPEC.max_rows
    assert all(0 <= length <= SPEC.axes[0].cap for length in lengths)
    answered = SPEC.outputs + (SPEC.extras if message.wants_extras else ())
    assert [len(column) for column in computed.columns] == [
        rows * (8 if t.datatype == "INT64" else 4) for t in answered
    ]
    assert len(computed.status) == rows
    found = struct.unpack(f"<{rows}q", computed.columns[0])
    totals = struct.unpack(f"<{rows}f", computed.columns[1])
    start = 0
    for row in range(rows):
        amounts = struct.unpack_from(f"<{lengths[row]}f", message.columns[0], 4 * start)
        start += lengths[row]
        status = computed.status[row]
        alive = remaining_s[row] > 0.5
        total = _summed(amounts)
        assert status == (EXPIRED if not alive else OK if math.isfinite(total) else NOT_FINITE)
        assert found[row] == (keys[row] if status == OK else 0)
        assert totals[row] == (total if status == OK else 0)


def _summed(amounts: tuple[float, ...]) -> float:
    """As a processor does it, in 32 bits and one after the other."""
    total = np.float32(0)
    with np.errstate(all="ignore"):
        for amount in amounts:
            total += np.float32(amount)
    return float(total)


TARGET: Final = Target(
    [
        one.SerializeToString()
        for one in (GOOD, batch([1]), batch([8] * 3, 1.0, b"\1\0\1"), batch([]), batch([1, 2], 0.1))
    ],
    check,
    ("headrace.serving.runner",),
    replica_pb2.PackedBatch,
)
