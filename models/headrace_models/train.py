"""`python -m headrace_models.train`: from events to a directory that a replica can serve.

Splits by time, with a gap of one label delay between what is learnt and what is judged; stops on the average
precision of a later block; calibrates there; reports on a block that nothing was chosen on.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress
from torch import Tensor

from headrace_models import artefact, calibration, fraud_tx, simulator
from headrace_models.datasets import DatasetError, read_events
from headrace_models.events import Events
from headrace_models.history import Timeline

SEED = 7
FRAUD_SHARE = 0.01
"""Of the simulated days: ten times ordinary life, so that two cores have enough fraud to learn from."""
BATCH_ROWS = 256
LEGITIMATE_ROWS = 30_000
"""Legitimate rows kept for training; the calibration undoes the thinning."""
MAX_EPOCHS = 6
PATIENCE = 2
"""Epochs in a row without a better average precision after which training stops."""
LEARNING_RATE = 1.5e-3

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of each block of time."""

    train: Index
    validation: Index
    test: Index
    kept: float
    """Share of the legitimate rows that training kept."""


def split_by_time(events: Events, seed: int) -> Split:
    """Sixth to seventh twelfth trains, the eleventh chooses and calibrates, the last one judges.

    The first two twelfths only fill histories; the three in between let labels mature. A training label counts
    only if it was known when the validation block begins: unknown is not negative.
    """
    begin, end = int(events.ts[0]), int(events.ts[-1]) + 1
    edge = [begin + (end - begin) * twelfth // 12 for twelfth in range(13)]

    def within(first: int, last: int) -> npt.NDArray[np.bool_]:
        return (events.ts >= edge[first]) & (events.ts < edge[last])

    known = (events.label > 0) & (events.label_ts <= edge[10])
    candidates = within(2, 7) & known
    fraud = np.flatnonzero(candidates & (events.label == 2))
    legitimate = np.flatnonzero(candidates & (events.label == 1))
    kept = min(1.0, LEGITIMATE_ROWS / max(1, len(legitimate)))
    sample = np.random.default_rng(seed).choice(legitimate, int(len(legitimate) * kept), replace=False)
    labelled = events.label > 0
    return Split(
        train=np.concatenate([fraud, sample]),
        validation=np.flatnonzero(within(10, 11) & labelled),
        test=np.flatnonzero(within(11, 12) & labelled),
        kept=kept,
    )


def tensors(timeline: Timeline, rows: Index) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    inputs, lengths = timeline.packed(rows)
    return (
        {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in inputs.items()},
        {name: torch.from_numpy(values) for name, values in lengths.items()},
    )


def logits(model: fraud_tx.FraudTx, timeline: Timeline, rows: Index) -> npt.NDArray[np.float64]:
    """The network's answer for many rows, in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        parts = [model.logits(*tensors(timeline, part)).numpy() for part in np.array_split(rows, len(rows) // 512 + 1)]
    return np.concatenate(parts).astype(np.float64)


def fit(timeline: Timeline, split: Split, *, seed: int, epochs: int, progress: Progress) -> fraud_tx.FraudTx:
    """Train, and keep the epoch with the best average precision on the validation block."""
    torch.manual_seed(seed)
    model = fraud_tx.build({})
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    steps = epochs * (len(split.train) // BATCH_ROWS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, max(steps, 2), pct_start=0.05)
    label = timeline.events.label
    best, best_state, worse = -1.0, model.state_dict(), 0
    for epoch in range(epochs):
        shuffled = np.random.default_rng(seed + epoch).permutation(split.train)
        batches = np.array_split(shuffled, len(shuffled) // BATCH_ROWS)
        _one_epoch(model, timeline, batches, optimiser, schedule, progress)
        held_back = logits(model, timeline, split.validation)
        found = calibration.average_precision(held_back, label[split.validation] == 2)
        progress.console.print(f"epoch {epoch + 1}: average precision {found:.4f} on the validation block")
        if found <= best:
            worse += 1
            if worse == PATIENCE:
                break
            continue
        worse = 0
        best, best_state = found, {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best_state)
    return model


def _one_epoch(
    model: fraud_tx.FraudTx,
    timeline: Timeline,
    batches: list[Index],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    progress: Progress,
) -> None:
    model.train()
    for batch in progress.track(batches, description="training"):
        target = torch.from_numpy((timeline.events.label[batch] == 2).astype(np.float32))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model.logits(*tensors(timeline, batch)), target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()


def calibrate(model: fraud_tx.FraudTx, timeline: Timeline, split: Split) -> None:
    """Fit probability and score on the validation block, into the model's buffers."""
    logit = logits(model, timeline, split.validation)
    label = (timeline.events.label[split.validation] == 2).astype(np.float64)
    ab = calibration.fit_platt(logit, label, beta=split.kept)
    p = calibration.sigmoid(ab[0] * logit + ab[1])
    model.calibration.copy_(torch.from_numpy(ab))
    model.score_edges.copy_(torch.from_numpy(calibration.score_edges(p)))


def evaluate(model: fraud_tx.FraudTx, timeline: Timeline, rows: Index) -> dict[str, float]:
    """The figures of the model card on these rows."""
    a, b = (float(value) for value in model.calibration)
    p = calibration.sigmoid(a * logits(model, timeline, rows) + b)
    label = timeline.events.label[rows] == 2
    precision, caught = calibration.precision_at(p, label, 0.01)
    low, high = calibration.bootstrap_ap(p, label, timeline.events.card[rows])
    return {
        "AUC": calibration.auc(p, label),
        "average precision": calibration.average_precision(p, label),
        "average precision, lower 95 %": low,
        "average precision, upper 95 %": high,
        "precision in the top 1 %": precision,
        "share of fraud caught in the top 1 %": caught,
        "recall at 1 % false positives": calibration.recall_at_false_positives(p, label, 0.01),
        "calibration error (ECE)": calibration.calibration_error(p, label),
        "prevalence": float(label.mean()),
        "payments": len(rows),
    }


def training_events(options: argparse.Namespace) -> tuple[Events, str]:
    """The events to learn from, and where they come from, in words."""
    if options.events is None:
        return simulator.simulate(SEED, fraud_share=FRAUD_SHARE), f"simulator, seed {SEED}, 120 days, 1 % fraud"
    rename = dict(pair.split("=", 1) for pair in options.map or ())
    events, causes = read_events(options.events, rename)
    for cause, count in causes.most_common():
        print(f"{options.events}: {count} rows set aside: {cause}", file=sys.stderr)
    return events, options.events.name


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="headrace_models.train", description="Train a model and write its directory.")
    parser.add_argument("--model", default="fraud-tx", choices=["fraud-tx"])
    parser.add_argument("--version", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/models"), help="a directory of models")
    parser.add_argument("--events", type=Path, help="your own events, CSV or Parquet (columns: models/README.md)")
    parser.add_argument("--map", action="append", metavar="YOURS=OURS", help="rename a column of yours")
    parser.add_argument("--epochs", type=int, default=MAX_EPOCHS)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    begun = time.monotonic()
    try:
        events, source = training_events(options)
    except DatasetError as error:
        print(f"headrace: {error}", file=sys.stderr)
        return 1
    timeline, split = Timeline(events), split_by_time(events, SEED)
    if (events.label[split.train] == 2).sum() < 20 or (events.label[split.test] == 2).sum() < 5:
        print("headrace: too little labelled fraud to learn from (20 to train, 5 to judge)", file=sys.stderr)
        return 1
    with Progress() as progress:
        model = fit(timeline, split, seed=SEED, epochs=options.epochs, progress=progress)
    calibrate(model, timeline, split)
    figures: dict[str, Any] = evaluate(model, timeline, split.test)
    directory = artefact.write(
        options.out / options.model / str(options.version), model, timeline, split.test, figures, source
    )
    print(
        f"{directory}: AUC {figures['AUC']:.4f}, average precision {figures['average precision']:.4f} "
        f"after {time.monotonic() - begun:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
