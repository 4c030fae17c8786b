"""Simulated payments as requests: what `headrace demo` and `headrace demo-shadow` send to a gateway.

It encodes and says who a payment is; when it is sent, and what becomes of the answer, is the demo's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import tritonclient.grpc.aio as triton

from headrace.client import OIP_DATATYPES
from headrace.v1 import experiments_pb2
from headrace_models import simulator, wire
from headrace_models.events import Events
from headrace_models.history import Timeline
from headrace_models.simulator.files import LETTERS

MODEL: Final = "fraud-tx"
SEED: Final = 2026
FRAUD_SHARE: Final = 0.003
WORLD: Final = {"days": 60, "cards": 40_000, "merchants": 3_000, "fraud_share": FRAUD_SHARE}
"""Another world than those the models were trained on."""
CHUNK: Final = 256
UNSIGNED: Final = (1 << 64) - 1


class Payment(NamedTuple):
    """One payment as a request carries it."""

    row: int
    """Its place among the events."""
    inputs: list[triton.InferInput]


def simulate() -> Events:
    """The world that the demos stream from: the same at every call."""
    return simulator.simulate(SEED, **WORLD)


def day_of(events: Events) -> npt.NDArray[np.int64]:
    """The simulated day of each event, from 0."""
    return (events.ts - simulator.START_US) // wire.DAY_US


def payments(timeline: Timeline, rows: npt.NDArray[np.int64]) -> Iterator[Payment]:
    """These events as payments in hand, each with the histories that it had then, in the order of `rows`."""
    for begin in range(0, len(rows), CHUNK):
        chunk = rows[begin : begin + CHUNK]
        columns, lengths = timeline.packed(chunk)
        ends = {axis: np.cumsum(values) for axis, values in lengths.items()}
        for i, row in enumerate(chunk):
            spans = {axis: slice(ends[axis][i] - lengths[axis][i], ends[axis][i]) for axis in lengths}
            cut = {
                name: values[i : i + 1] if name == "merchant_stats" else values[spans[name.split("_")[0]]][None]
                for name, values in columns.items()
            }
            yield Payment(int(row), _inputs(cut))


def parameters(events: Events, row: int) -> dict[str, str | float]:
    """What a request says of its payment beside the tensors: who pays, its id, how much of what."""
    return {
        "headrace_entity": f"{int(events.card[row]) & UNSIGNED:016x}",
        "headrace_event_id": event_id(row),
        "headrace_amount": float(events.amount[row]),
        "headrace_currency": LETTERS[int(events.currency[row])],
    }


def outcome(events: Events, row: int) -> experiments_pb2.Outcome | None:
    """What became of the payment in the end; None where nobody will ever know."""
    label = int(events.label[row])
    if label == wire.LABEL_UNKNOWN:
        return None
    return experiments_pb2.Outcome(event_id=event_id(row), fraud=label == wire.LABEL_FRAUD)


def event_id(row: int) -> str:
    """As the simulator's files name an event."""
    return f"e{row}"


def _inputs(columns: dict[str, npt.NDArray[Any]]) -> list[triton.InferInput]:
    inputs = []
    for name, values in columns.items():
        tensor = triton.InferInput(name, list(values.shape), OIP_DATATYPES[values.dtype.name])
        tensor.set_data_from_numpy(np.ascontiguousarray(values))
        inputs.append(tensor)
    return inputs
