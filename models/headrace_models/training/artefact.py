"""Writes what training made: spec.yaml, weights, golden rows, model card. `spec.py` reads it back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import yaml
from safetensors.torch import save
from torch import nn

from headrace_models import spec
from headrace_models.calibration import Calibration
from headrace_models.events import Events
from headrace_models.training.measure import Figures
from headrace_models.training.recipes import Recipe
from headrace_models.training.split import Block
from headrace_models.training.tasks import Task, tensors

GOLDEN_ROWS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a run of training brings."""

    recipe: Recipe
    module: nn.Module
    task: Task
    test: Block
    figures: Figures
    baselines: Mapping[str, Figures]
    source: str
    """Where the events are from, in words."""
    took: str
    """How long it took on what, in words."""


def write(directory: Path, made: Made) -> Path:
    """Write the directory of one version and read it back. Raises: spec.SpecError if it can't be served."""
    directory.mkdir(parents=True, exist_ok=True)
    module = made.module.eval()
    (directory / "weights.safetensors").write_bytes(save(module.state_dict()))
    _write_golden(directory / "golden.npz", made)
    (directory / "spec.yaml").write_text(_spec_yaml(directory, made))
    (directory / "MODEL_CARD.md").write_text(_card(directory, made))
    written = spec.load_spec(directory)
    spec.verify_golden(spec.load_module(written, directory), written, directory)
    return directory


def fingerprint(events: Events) -> str:
    """A short digest of the events themselves: the same data gives the same one."""
    digest = hashlib.sha256()
    for field in fields(events):
        digest.update(np.ascontiguousarray(getattr(events, field.name)).tobytes())
    return digest.hexdigest()[:16]


def _write_golden(path: Path, made: Made) -> None:
    """The first test rows and some positives: inputs, lengths, and the outputs they get today."""
    rows = made.test.rows
    positive = rows[made.task.target(rows) > 0][: GOLDEN_ROWS // 2]
    rows = np.unique(np.concatenate([rows[: GOLDEN_ROWS - len(positive)], positive]))
    inputs, lengths = tensors(made.task, rows)
    for tree in made.recipe.contract["inputs"]:
        if tree.get("optional"):
            kind = spec.DATATYPES[tree["datatype"]]
            inputs[tree["name"]] = torch.from_numpy(np.zeros((len(rows), *tree["dims"]), kind))
    inputs = {tree["name"]: inputs[tree["name"]] for tree in made.recipe.contract["inputs"]}
    lengths = {tree["name"]: lengths[tree["name"]] for tree in made.recipe.contract["axes"]}
    with torch.inference_mode():
        outputs = made.module(inputs, lengths)
    groups = {"input": inputs, "lengths": lengths, "output": outputs}
    arrays = {f"{kind}.{name}": value.numpy() for kind, group in groups.items() for name, value in group.items()}
    np.savez_compressed(path, **arrays)


def _spec_yaml(directory: Path, made: Made) -> str:
    recipe = made.recipe
    tree: dict[str, Any] = {
        "name": directory.parent.name,
        "version": int(directory.name),
        "description": recipe.description,
        "factory": recipe.factory,
        "config": dict(recipe.config),
        **recipe.contract,
        "weights": "weights.safetensors",
        "digest": spec.digest(directory / "weights.safetensors"),
        "golden": "golden.npz",
    }
    return yaml.dump(tree, Dumper=_Plain, sort_keys=False, width=120)


class _Plain(yaml.SafeDumper):
    """Without anchors: what is shared in memory is written out."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  the base class's name
        return True


def _card(directory: Path, made: Made) -> str:
    calibration = getattr(made.module, "calibration", None)
    scores = (
        "\nIt answers a calibrated probability `p` and a `score` from 0 to 99, on which 25 is the top 10 % of reference "
        f"traffic,\n50 the top 1 % and 75 the top 0.1 %. Calibration `{calibration.version()}`.\n"
        if isinstance(calibration, Calibration)
        else ""
    )
    parameters = sum(p.numel() for p in made.module.parameters())
    return f"""# {directory.parent.name}, version {directory.name}

{made.recipe.about} {parameters:,} parameters.
{scores}
## Figures

Measured on the last twelfth of the time span, which nothing was trained, chosen or calibrated on; the interval draws
cards with replacement. `python -m headrace_models.training.evaluate` measures them again.

{_table(made.figures)}
## Baselines

The same rows to learn from and to be judged by, given {made.recipe.baselines}
(`training/baselines.py`).

{_comparison(made)}
## Data

{made.source}; fingerprint of the events `{fingerprint(made.task.events)}`. {made.took}
Of twelve parts of the time span two fill histories, five teach, three wait for labels to mature, one chooses and
calibrates, one judges.

## Limits

Simulated payments show that the parts work together, not how well anything is found in anybody's traffic: train on
your own events before it decides anything (`make train MODEL={directory.parent.name} EVENTS=…`). A probability is
calibrated for the share of positives in its data.
"""


def _table(figures: Figures) -> str:
    lines = [f"| {name} | {_number(value)} |\n" for name, value in figures.items()]
    return "| | |\n|---|---|\n" + "".join(lines)


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
