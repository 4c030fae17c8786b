"""The questions of each workload, with the answers they must get: the module's own, one row at a time.

W1 is FP32 [1, 32, 16]. W2 is ragged, [1, T, 16], with the lengths of `ragged.py`. Each is written for the project's own
generator (see `serialised.py`) and for perf_analyzer (`--input-data`), and W2 a second time as callers must send it to
a server that batches equal shapes only: padded to the cap, the length beside it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import ragged
import serialised
import torch

from headrace.client import request
from headrace_models import spec

HERE = Path(__file__).parent
MODELS = {"W1": "w1-encoder", "W2": "w2-ragged"}
COUNTS = {"W1": 256, "W2": 512}
CAP = ragged.CAP

Row = dict[str, np.ndarray]
"""One request's inputs, without the batch dimension."""


@dataclass(frozen=True)
class Questions:
    """Where they lie, for each generator."""

    own: Path
    perf_analyzer: Path


@dataclass(frozen=True)
class Workload:
    name: str
    rows: list[np.ndarray]
    scores: np.ndarray = field(repr=False)

    @property
    def model(self) -> str:
        return MODELS[self.name]

    def request(self, row: Row) -> bytes:
        message: bytes = request(self.model, {name: value[None] for name, value in row.items()}).SerializeToString()
        return message

    def write(self, folder: Path, *, padded: bool) -> Questions:
        """`padded` is for W2 alone: rows of W1 have one shape anyway."""
        padded = padded and self.name == "W2"
        stem = folder / f"{self.name.lower()}{'-padded' if padded else ''}"
        questions = Questions(stem.with_suffix(".npz"), stem.with_suffix(".json"))
        rows = [padded_row(row) if padded else {"events": row} for row in self.rows]
        requests = [self.request(row) for row in rows]
        serialised.save(
            questions.own, serialised.Questions(requests, {"score": self.scores}, {"score": serialised.FP32_BATCHED})
        )
        questions.perf_analyzer.write_text(json.dumps({"data": [asked(row) for row in rows]}))
        return questions


def make(name: str, count: int | None = None) -> Workload:
    rows = questions_of(name, count or COUNTS[name])
    return Workload(name, rows, scores(name, rows))


def questions_of(name: str, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    lengths = np.full(count, 32) if name == "W1" else ragged.lengths(rng, count)
    return [rng.normal(size=(length, 16)).astype(np.float32) for length in lengths]


def scores(name: str, rows: list[np.ndarray]) -> np.ndarray:
    """[count, 1], each row in a batch of its own."""
    directory = HERE / "repository" / MODELS[name] / "1"
    module = spec.load_module(spec.load_spec(directory), directory)
    found = []
    with torch.inference_mode():
        for row in rows:
            events = torch.from_numpy(row)
            if name == "W1":
                found.append(module({"events": events[None]}, {})["score"].numpy())
            else:
                found.append(module({"events": events}, {"events": torch.tensor([len(row)])})["score"].numpy())
    return np.concatenate(found)


def padded_row(events: np.ndarray) -> Row:
    filled = np.zeros((CAP, events.shape[1]), np.float32)
    filled[: len(events)] = events
    return {"events": filled, "length": np.array([len(events)], np.int32)}


def asked(row: Row) -> dict[str, dict[str, list[float]]]:
    """A request as perf_analyzer reads it. Six digits will do: it compares no answers."""
    return {
        name: {"content": np.round(value.ravel().astype(float), 6).tolist(), "shape": list(value.shape)}
        if value.dtype.kind == "f"
        else {"content": value.ravel().tolist(), "shape": list(value.shape)}
        for name, value in row.items()
    }
