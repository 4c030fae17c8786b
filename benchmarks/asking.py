"""What is asked: simulated payments and W1's random events, serialised, with the model's own answers to each alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import serialised
import torch
from serialised import Questions
from tritonclient.grpc import service_pb2

from headrace.client import request
from headrace_models import simulator, spec
from headrace_models.history import Timeline

HERE = Path(__file__).parent
OUT = Path("build/bench")
FRAUD = HERE.parent / "models" / "repository" / "fraud-tx" / "1"
W1 = HERE / "repository" / "w1-encoder" / "1"
COUNT = 256
CARD_EVENTS = 64

Row = tuple[Mapping[str, np.ndarray], Mapping[str, int]]
"""The packed columns of one row, and its length on each axis."""


def payments_of_64(path: Path = OUT / "w3.npz") -> Path:
    """Payments with the newest 64 events of their card (those that have so many); merchants' histories as they come."""
    timeline, places = _late_payments()
    long_enough = places[timeline.lengths(places) >= CARD_EVENTS]
    rows = [newest(_row(timeline, place), "card", CARD_EVENTS) for place in _drawn(long_enough)]
    return write(path, FRAUD, rows)


def payments(path: Path = OUT / "w4.npz") -> Path:
    """Payments with both histories as they come."""
    timeline, places = _late_payments()
    return write(path, FRAUD, [_row(timeline, place) for place in _drawn(places)])


def w1_events(path: Path = OUT / "w1-open.npz") -> Path:
    """Random events of W1's fixed size."""
    events = np.random.default_rng(1).normal(size=(COUNT, 1, 32, 16)).astype(np.float32)
    return write(path, W1, [({"events": each}, {}) for each in events])


def refusable(path: Path, refused: Path) -> Path:
    """The same requests with a microsecond to live: decoded and queued as any, then refused, as under overload."""
    questions = serialised.load(path)
    requests = []
    for each in questions.requests:
        message = service_pb2.ModelInferRequest.FromString(each)
        message.parameters["timeout"].int64_param = 1
        requests.append(message.SerializeToString())
    serialised.save(refused, Questions(requests, questions.expected, questions.tolerance))
    return refused


def write(path: Path, directory: Path, rows: Sequence[Row]) -> Path:
    """The rows as requests to the model in `directory`, and what it answers when it runs them one at a time."""
    described = spec.load_spec(directory)
    module = spec.load_module(described, directory)
    torch.set_num_threads(1)  # more only get in the way of one another at a row a time
    answers = [_alone(module, row) for row in rows]
    tolerance = {output.name: max(serialised.FP32_BATCHED, output.tolerance or 0.0) for output in described.outputs}
    expected = {name: np.concatenate([answer[name] for answer in answers]) for name in tolerance}
    serialised.save(path, Questions([_serialised(described, row) for row in rows], expected, tolerance))
    return path


def newest(row: Row, axis: str, count: int) -> Row:
    """The row with no more than its newest `count` events of an axis, whose columns begin with the axis's name."""
    columns, lengths = row
    kept = {name: values[-count:] if name.startswith(f"{axis}_") else values for name, values in columns.items()}
    return kept, {**lengths, axis: min(count, lengths[axis])}


def _late_payments() -> tuple[Timeline, np.ndarray]:
    """Simulated payments, and those of the last twenty days: the histories before them have had time to grow."""
    events = simulator.simulate(3, days=120, cards=2000, merchants=200)
    return Timeline(events), np.flatnonzero(events.ts > events.ts[-1] - 20 * 86_400_000_000)


def _drawn(places: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).choice(places, COUNT, replace=False)


def _row(timeline: Timeline, place: int) -> Row:
    columns, lengths = timeline.packed(np.array([place]))
    return columns, {axis: int(length[0]) for axis, length in lengths.items()}


def _alone(module: torch.nn.Module, row: Row) -> dict[str, np.ndarray]:
    columns, lengths = row
    with torch.inference_mode():
        answer = module(
            {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in columns.items()},
            {axis: torch.tensor([length]) for axis, length in lengths.items()},
        )
    return {name: values.numpy() for name, values in answer.items()}


def _serialised(described: spec.ModelSpec, row: Row) -> bytes:
    """Packed columns get the batch dimension that a request has; the others have it already."""
    ragged = {tensor.name for tensor in described.inputs if tensor.axis}
    columns = {name: values[None] if name in ragged else values for name, values in row[0].items()}
    message: bytes = request(described.name, columns).SerializeToString()
    return message
