"""What padding costs on ragged traffic: the runner alone, on one thread, bucketed against padded to the cap.

The same module, weights and batches both ways, in turn. Lengths are log-normal: median 17, 90 % below 64, cap 128.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headrace.serving import rows as made
from headrace.serving.runner import Runner, Unpacked
from headrace_models import collate, simulator, spec
from headrace_models.training.tasks import FraudTask

HERE = Path(__file__).parent
BATCH_ROWS = 64
BATCHES = 24
ROUNDS = 8
MEDIAN, SPREAD, CAP = 17.0, 1.035, 128


def measure() -> dict[str, Any]:
    """For each model: rows a second both ways, and how many times faster buckets are, with the spread."""
    torch.set_num_threads(1)
    return {
        name: compare(name, batches) for name, batches in (("w2-ragged", encoder_batches()), ("fraud-tx", payments()))
    }


def compare(name: str, batches: list[Unpacked]) -> dict[str, Any]:
    directory = HERE / "repository" / name / "1"
    if not directory.exists():
        directory = HERE.parent / "models" / "repository" / name / "1"
    found = spec.load_spec(directory)
    runner = Runner(spec.load_module(found, directory), found, "cpu")
    packed = [made.packed(batch, found) for batch in batches]
    rows = sum(batch.rows for batch in batches)

    def rate() -> float:
        begun = time.perf_counter()
        for batch in packed:
            runner.run(batch, 0.0)
        return rows / (time.perf_counter() - begun)

    rate()
    pairs = []
    for _ in range(ROUNDS):
        bucketed = rate()
        with padded_to_the_cap():
            pairs.append((bucketed, rate()))
    ratios = [bucketed / padded for bucketed, padded in pairs]
    return {
        "bucketed_rows_s": round(float(np.median([b for b, _ in pairs]))),
        "padded_rows_s": round(float(np.median([p for _, p in pairs]))),
        "ratio": round(float(np.median(ratios)), 2),
        "lowest": round(min(ratios), 2),
        "highest": round(max(ratios), 2),
    }


def lengths(rng: np.random.Generator, rows: int) -> np.ndarray:
    return np.clip(np.round(rng.lognormal(np.log(MEDIAN), SPREAD, rows)), 1, CAP).astype(np.int64)


def encoder_batches() -> list[Unpacked]:
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(BATCHES):
        drawn = lengths(rng, BATCH_ROWS)
        events = rng.normal(size=(drawn.sum(), 16)).astype(np.float32)
        batches.append(Unpacked({"events": events}, {"events": drawn}, BATCH_ROWS))
    return batches


def payments() -> list[Unpacked]:
    """Simulated payments whose cards' histories are cut to such lengths, merchants' histories as they are."""
    rng = np.random.default_rng(0)
    events = simulator.simulate(3, days=120, cards=6000, merchants=600)
    task = FraudTask(events)
    late = np.flatnonzero(events.ts > events.ts[-1] - 20 * 86_400_000_000)
    return [cut(task, rng.choice(late, BATCH_ROWS, replace=False), lengths(rng, BATCH_ROWS)) for _ in range(BATCHES)]


def cut(task: FraudTask, rows: np.ndarray, wanted: np.ndarray) -> Unpacked:
    columns, spans = task.packed(rows)
    kept = np.minimum(spans["card"], wanted)
    ends = np.cumsum(spans["card"])
    index = np.concatenate([np.arange(end - keep, end) for end, keep in zip(ends, kept, strict=True)])
    inputs = {name: values[index] if name.startswith("card_") else values for name, values in columns.items()}
    return Unpacked(inputs, {"card": kept, "merchant": spans["merchant"]}, len(rows))


@contextmanager
def padded_to_the_cap() -> Iterator[None]:
    """Every row as long as the longest that may come: what a server does that knows one length."""
    by_bucket = collate.by_bucket
    collate.by_bucket = lambda lengths_B, *_: iter([(torch.arange(len(lengths_B)), CAP)])
    try:
        yield
    finally:
        collate.by_bucket = by_bucket


if __name__ == "__main__":
    for model, figures in measure().items():
        print(model, figures)
