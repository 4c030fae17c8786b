"""Writes what training made: spec.yaml, weights, golden rows, model card. `spec.py` reads it back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch import nn

from headrace_models import spec, writing
from headrace_models.calibration import Calibration
from headrace_models.events import Events
from headrace_models.history import Columns
from headrace_models.training.measure import Figures
from headrace_models.training.recipes import Recipe
from headrace_models.training.split import Block
from headrace_models.training.tasks import Task

GOLDEN_ROWS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a run of training brings."""

    recipe: Recipe
    module: nn.Module
    task: Task
    test: Block
    figures: Figures
    stale: Figures
    """The same with histories that lag; empty where there are none."""
    baselines: Mapping[str, Figures]
    source: str
    """Where the events are from, in words."""
    took: str
    """How long it took on what, in words."""
    later_days: int = 0
    """How far its days lie behind those of the recipe's world."""


def write(directory: Path, made: Made) -> Path:
    """Write the directory of one version and read it back. Raises: spec.SpecError if it can't be served."""
    inputs, lengths = _golden(made)
    writing.write(directory, made.module, described(made.recipe, made.module), inputs, lengths)
    (directory / "MODEL_CARD.md").write_text(_card(directory, made))
    return directory


def described(recipe: Recipe, module: nn.Module) -> dict[str, Any]:
    """What spec.yaml says, but for names and digests."""
    tree = {
        "description": recipe.description,
        "factory": recipe.factory,
        "vocabulary": recipe.vocabulary(),
        "config": dict(recipe.config),
        **recipe.contract,
    }
    calibration = module.calibration
    if isinstance(calibration, Calibration):
        tree["signal"] = {"name": "fraud", "calibration_version": calibration.version()}
    return tree


def fingerprint(events: Events) -> str:
    """A short digest of the events themselves: the same data gives the same one."""
    digest = hashlib.sha256()
    for field in fields(events):
        digest.update(np.ascontiguousarray(getattr(events, field.name)).tobytes())
    return digest.hexdigest()[:16]


def _golden(made: Made) -> tuple[Columns, Columns]:
    """The first test rows and some positives: inputs and lengths."""
    rows = made.test.rows
    positive = rows[made.task.target(rows) > 0][: GOLDEN_ROWS // 2]
    rows = np.unique(np.concatenate([rows[: GOLDEN_ROWS - len(positive)], positive]))
    columns, lengths = made.task.packed(rows)
    inputs = {}
    for tree in made.recipe.contract["inputs"]:
        name = tree["name"]
        # What is optional is zeros, as for a caller who leaves it out.
        blank = np.zeros((len(rows), *tree["dims"]), spec.DATATYPES[tree["datatype"]]) if tree.get("optional") else None
        inputs[name] = columns[name] if blank is None else blank
    return inputs, {tree["name"]: lengths[tree["name"]] for tree in made.recipe.contract["axes"]}


def _card(directory: Path, made: Made) -> str:
    calibration = getattr(made.module, "calibration", None)
    scores = (
        "\nIt answers a calibrated probability `p` and a `score` from 0 to 99, on which 25 is the top 10 % of\n"
        f"reference traffic, 50 the top 1 % and 75 the top 0.1 %. Calibration `{calibration.version()}`.\n"
        if isinstance(calibration, Calibration)
        else ""
    )
    parameters = sum(p.numel() for p in made.module.parameters())
    return f"""# {directory.parent.name}, version {directory.name}

{made.recipe.about} {parameters:,} parameters.
{scores}
## Figures

Measured on the last twelfth of the time span, which nothing was trained, chosen or calibrated on; the interval draws
cards with replacement. `python -m headrace_models.training.evaluate{_later(made)}` measures them again.

{_table(made.figures)}{_lagging(made)}
## Baselines

The same rows to learn from and to be judged by, given {made.recipe.baselines}
(`training/baselines.py`).

{_comparison(made)}
## Data

{made.source}; fingerprint of the events `{fingerprint(made.task.events)}`. {made.took}
Of twelve parts of the time span two fill histories and the last two choose, calibrate and judge; what lies between
teaches, up to one label delay before the eleventh begins.

## Limits

Simulated payments show that the parts work together, not how well anything is found in anybody's traffic: train on
your own events before it decides anything (`make train MODEL={directory.parent.name} EVENTS=…`). A probability is
calibrated for the share of positives in its data.
"""


def _later(made: Made) -> str:
    return f" --later {made.later_days}" if made.later_days else ""


def _table(figures: Figures) -> str:
    lines = [f"| {name} | {_number(value)} |\n" for name, value in figures.items()]
    return "| | |\n|---|---|\n" + "".join(lines)


def _lagging(made: Made) -> str:
    if not made.stale:
        return ""
    return f"\nWhen the last hours of every history have not arrived:\n\n{_table(made.stale)}"


def _comparison(made: Made) -> str:
    """One line a contestant, the model first."""
    names = list(next(iter(made.baselines.values()), {}))
    if not names:
        return "Not measured: scikit-learn was not there.\n"
    rows = {made.recipe.name: made.figures, **made.baselines}
    lines = [
        f"| {contestant} | " + " | ".join(_number(figures[name]) if name in figures else "" for name in names) + " |\n"
        for contestant, figures in rows.items()
    ]
    return "| | " + " | ".join(names) + " |\n|---|" + "---|" * len(names) + "\n" + "".join(lines)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
