"""Writes what training made: spec.yaml, weights, golden rows, model card. `spec.py` reads it back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml
from safetensors.torch import load_file, save_file

from headrace_models import spec, wire
from headrace_models.events import Events
from headrace_models.history import Timeline

GOLDEN_ROWS = 16
INPUTS: list[dict[str, Any]] = [
    {"name": "card_ts", "datatype": "INT64", "dims": [-1], "axis": "card", "ordered": True},
    {"name": "card_amount", "datatype": "FP32", "dims": [-1], "axis": "card", "finite": True, "minimum": 0},
    {"name": "card_codes", "datatype": "INT32", "dims": [-1, len(wire.CARD_CODES)], "axis": "card", "minimum": 0},
    {"name": "card_ids", "datatype": "INT64", "dims": [-1, len(wire.CARD_IDS)], "axis": "card"},
    {"name": "merchant_ts", "datatype": "INT64", "dims": [-1], "axis": "merchant", "ordered": True},
    {"name": "merchant_amount", "datatype": "FP32", "dims": [-1], "axis": "merchant", "finite": True, "minimum": 0},
    {
        "name": "merchant_codes",
        "datatype": "INT32",
        "dims": [-1, len(wire.MERCHANT_CODES)],
        "axis": "merchant",
        "minimum": 0,
    },
    {"name": "merchant_ids", "datatype": "INT64", "dims": [-1, len(wire.MERCHANT_IDS)], "axis": "merchant"},
    {"name": "merchant_stats", "datatype": "FP32", "dims": [len(wire.MERCHANT_STATS)], "finite": True},
]


def write(
    directory: Path,
    model: torch.nn.Module,
    timeline: Timeline,
    judged: npt.NDArray[np.int64],
    figures: Mapping[str, float],
    source: str,
) -> Path:
    """Write the directory of one version and read it back; `judged`: the rows its figures are from.

    Raises: spec.SpecError if it can't be served.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model = model.eval()
    save_file(model.state_dict(), directory / "weights.safetensors")
    _write_golden(directory / "golden.npz", model, timeline, judged)
    (directory / "spec.yaml").write_text(_spec_yaml(directory))
    (directory / "MODEL_CARD.md").write_text(_card(directory, figures, source, fingerprint(timeline.events)))
    written = spec.load_spec(directory)
    spec.verify_golden(spec.load_module(written, directory), written, directory)
    return directory


def fingerprint(events: Events) -> str:
    """A short digest of the events themselves: the same data gives the same one."""
    digest = hashlib.sha256()
    for column in (
        events.ts,
        events.card,
        events.merchant,
        events.amount,
        events.outcome,
        events.label,
        events.label_ts,
    ):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()[:16]


def calibration_version(weights: Path) -> str:
    """12 hex digits that change whenever the way from a logit to `p` and `score` does."""
    state = load_file(weights)
    digest = hashlib.sha256()
    for name in ("calibration", "score_edges"):
        digest.update(state[name].numpy().astype("<f4").tobytes())
    return digest.hexdigest()[:12]


def _write_golden(path: Path, model: torch.nn.Module, timeline: Timeline, judged: npt.NDArray[np.int64]) -> None:
    """The first test payments and some frauds: inputs, lengths, and the outputs they get today."""
    fraud = judged[timeline.events.label[judged] == 2][: GOLDEN_ROWS // 2]
    rows = np.sort(np.concatenate([judged[: GOLDEN_ROWS - len(fraud)], fraud]))
    inputs, lengths = timeline.packed(rows)
    with torch.inference_mode():
        outputs = model(
            {name: torch.from_numpy(values) for name, values in inputs.items()},
            {name: torch.from_numpy(values) for name, values in lengths.items()},
        )
    arrays = {f"input.{name}": values for name, values in inputs.items()}
    arrays |= {f"lengths.{name}": values for name, values in lengths.items()}
    arrays |= {f"output.{name}": values.numpy() for name, values in outputs.items()}
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def _spec_yaml(directory: Path) -> str:
    weights = directory / "weights.safetensors"
    tree = {
        "name": directory.parent.name,
        "version": int(directory.name),
        "description": "Fraud scoring over a card's and a merchant's history",
        "factory": "headrace_models.fraud_tx:build",
        "config": {},
        "inputs": INPUTS,
        "outputs": [
            {"name": "p", "datatype": "FP32", "dims": [1]},
            {"name": "score", "datatype": "INT32", "dims": [1]},
        ],
        "axes": [
            {"name": "card", "cap": wire.CARD_CAP, "required": True},
            {"name": "merchant", "cap": wire.MERCHANT_CAP},
        ],
        "max_rows": 64,
        "max_tokens": 8192,
        "warmup": [
            {"rows": 1, "lengths": {"card": 8, "merchant": 8}},
            {"rows": 32, "lengths": {"card": 32, "merchant": 64}},
            {"rows": 8, "lengths": {"card": 128, "merchant": 0}},
        ],
        "signal": {"name": "fraud", "calibration_version": calibration_version(weights)},
        "weights": weights.name,
        "digest": spec.digest(weights),
        "golden": "golden.npz",
    }
    return yaml.safe_dump(tree, sort_keys=False)


def _card(directory: Path, figures: Mapping[str, float], source: str, mark: str) -> str:
    rows = "\n".join(
        f"| {name} | {value:.4f} |" if value < 100 else f"| {name} | {value:,} |" for name, value in figures.items()
    )
    return f"""# {directory.parent.name}, version {directory.name}

A causal transformer (2 layers, width 64, 4 heads) over the card's last payments, beside fading means of the
merchant's and eight aggregates of it. Answers a calibrated probability `p` and a `score` from 0 to 99, on which
25 is the top 10 % of reference traffic, 50 the top 1 % and 75 the top 0.1 %.

## Figures

Measured on the last twelfth of the days, which nothing was trained, chosen or calibrated on. The interval draws
cards with replacement. `python -m headrace_models.evaluate` repeats them.

| | |
|---|---|
{rows}

## Data

{source}; fingerprint `{mark}`. Trained on twelfths 3 to 7 of the days with labels known by the tenth, chosen and
calibrated on the eleventh.

## Limits

The payments are simulated: the figures show that the parts work together, not how well fraud is found in anybody's
traffic. Train on your own events before it decides anything (`make train EVENTS=…`). The probability is calibrated
for the share of fraud in its data.
"""
