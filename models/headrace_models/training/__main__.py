"""`python -m headrace_models.training`, or `headrace train`: from events to a directory that a replica can serve."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from headrace_models import simulator, spec
from headrace_models.acceptance import Acceptance
from headrace_models.calibration import Calibration, fit_platt
from headrace_models.datasets import DatasetError, read_events
from headrace_models.events import Events
from headrace_models.training import artefact, measure, source
from headrace_models.training.artefact import Made
from headrace_models.training.loop import CHECKPOINT_S, Run
from headrace_models.training.recipes import RECIPES, Recipe
from headrace_models.training.split import Split, is_retry
from headrace_models.training.tasks import FraudTask, Task, logits

GENTLY = 0.2
"""Of the recipe's learning rate, where training begins with weights that have learnt already."""
ENOUGH_TO_LEARN, ENOUGH_TO_JUDGE = 20, 5
"""Positives without which training refuses to begin."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="headrace train", description="Train a model and write its directory.")
    parser.add_argument("--model", default="fraud-tx", choices=sorted(RECIPES))
    parser.add_argument("--version", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/models"), help="a directory of models")
    parser.add_argument("--events", type=Path, help="your own events, CSV or Parquet (columns: models/README.md)")
    parser.add_argument(
        "--later", type=_days, default=0, metavar="DAYS",
        help="simulated payments that begin so many days later: a refreshed version",
    )  # fmt: skip
    parser.add_argument(
        "--start-from", type=Path, metavar="DIR",
        help="a version's directory: begin with its weights, and learn more gently",
    )  # fmt: skip
    parser.add_argument("--map", action="append", type=_renaming, metavar="YOURS=OURS", help="rename a column of yours")
    parser.add_argument("--strict", action="store_true", help="stop at the first event that cannot be true")
    parser.add_argument("--epochs", type=int, help="at most so many; default: the recipe's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpoint-s", type=float, default=CHECKPOINT_S, help="seconds between two checkpoints")
    parser.add_argument("--fresh", action="store_true", help="begin anew, even where a killed run could be taken up")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    recipe = RECIPES[options.model]
    try:
        events, truth, words = training_events(options, recipe)
        directory = make(options, recipe, events, truth, words)
    except DatasetError as error:
        print(f"headrace: {error}", file=sys.stderr)
        return 1
    print(f"written: {directory}")
    return 0


def make(
    options: argparse.Namespace, recipe: Recipe, events: Events, truth: simulator.Truth | None, words: str
) -> Path:
    """Split, learn, calibrate, measure, write. Raises: DatasetError when there is too little to learn from."""
    begun = time.monotonic()
    task = recipe.task(events)
    split = task.split(recipe.how.keep, recipe.how.seed)
    _check(task, split)
    module, epochs = _learn(options, recipe, task, split)
    calibrate(module, task, split)
    figures = measure.measure(module, task, split.test, truth)
    stale = measure.stale(module, events, split.test) if isinstance(task, FraudTask) else {}
    for name, value in list(figures.items())[:2]:
        print(f"{name}: {value:.4f}")
    minutes = (time.monotonic() - begun) / 60
    made = Made(
        recipe=recipe, module=module, task=task, test=split.test, figures=figures, stale=stale,
        baselines=_baselines(task, split), source=words,
        took=f"Trained in {minutes:.0f} minutes on {options.threads} CPU threads, {epochs} epoch{'s' * (epochs > 1)}"
        + (f", beginning with the weights of version {options.start_from.name}." if options.start_from else "."),
        later_days=options.later,
    )  # fmt: skip
    directory = artefact.write(options.out / options.model / str(options.version), made)
    _checkpoint(options).unlink(missing_ok=True)  # only now: until it is written, a kill costs no epoch
    return directory


def training_events(options: argparse.Namespace, recipe: Recipe) -> tuple[Events, simulator.Truth | None, str]:
    """The events to learn from, what is known of how they came about, and where they are from, in words."""
    if options.events is None:
        world = recipe.how.seed, recipe.world, options.later
        return *source.simulated(*world), source.in_words(*world)
    events, causes = read_events(options.events, dict(options.map or ()), strict=options.strict)
    for cause, count in causes.most_common():
        print(f"{options.events}: {count} rows set aside: {cause}", file=sys.stderr)
    return events, None, options.events.name


def calibrate(module: torch.nn.Module, task: Task, split: Split) -> None:
    """Fit probability and score on the reference block, into the module's buffers."""
    block = split.reference
    logit, target = logits(module, task, block.rows), task.target(block.rows).astype(float)
    if isinstance(module, Acceptance):
        again = is_retry(task.events)[block.rows]
        fits = [fit_platt(logit[some], target[some], block.weight[some]) for some in (~again, again) if some.any()]
        module.calibration.copy_(torch.from_numpy(np.stack([fits[0], fits[-1]])))
        return
    assert isinstance(module.calibration, Calibration), "This is a bug."
    assert isinstance(task, FraudTask), "This is a bug."
    module.calibration.fit(logit, task.lengths(block.rows), target, block.weight, split.kept)


def _learn(options: argparse.Namespace, recipe: Recipe, task: Task, split: Split) -> tuple[torch.nn.Module, int]:
    how = recipe.how if options.epochs is None else replace(recipe.how, epochs=options.epochs)
    learnt = {} if options.start_from is None else _weights(options.start_from, recipe)
    if learnt:
        how = replace(how, learning_rate=how.learning_rate * GENTLY)

    def build() -> torch.nn.Module:
        module = recipe.build(dict(recipe.config))
        module.load_state_dict(learnt or module.state_dict())
        return module

    run = Run(build, task, split, how)
    checkpoint = _checkpoint(options)
    if options.fresh:
        checkpoint.unlink(missing_ok=True)
    identity = f"{artefact.fingerprint(task.events)} {recipe.config} {how} {options.start_from}"
    with Progress() as progress:
        module = run.fit(progress, checkpoint, identity, options.checkpoint_s)
    return module, run.at.epoch


def _weights(directory: Path, recipe: Recipe) -> dict[str, torch.Tensor]:
    """Those of a version of this recipe's. Raises: DatasetError when it is none."""
    try:
        found = spec.load_spec(directory)
        module = spec.load_module(found, directory)
    except spec.SpecError as error:
        raise DatasetError(str(error)) from error
    if (found.factory, dict(found.config)) != (recipe.factory, dict(recipe.config)):
        raise DatasetError(f"{directory}: is not what {recipe.name} is made of")
    return module.state_dict()


def _checkpoint(options: argparse.Namespace) -> Path:
    path: Path = options.out / options.model / f"{options.version}.checkpoint"
    return path


def _check(task: Task, split: Split) -> None:
    blocks = {
        "learn from": (split.train, ENOUGH_TO_LEARN),
        "choose by": (split.validation.rows, ENOUGH_TO_JUDGE),
        "calibrate on": (split.reference.rows, ENOUGH_TO_JUDGE),
        "judge by": (split.test.rows, ENOUGH_TO_JUDGE),
    }
    for purpose, (rows, needed) in blocks.items():
        positives = int(task.target(rows).sum())
        for kind, count in (("positives", positives), ("negatives", len(rows) - positives)):
            if count < needed:
                raise DatasetError(
                    f"{count} {kind} to {purpose}, with targets that were known in time; needed: {needed}"
                )


def _baselines(task: Task, split: Split) -> dict[str, measure.Figures]:
    if importlib.util.find_spec("sklearn") is None:
        return {}
    from headrace_models.training import baselines  # noqa: PLC0415  a development dependency

    return measure.compare(task, split.test, baselines.answers(task, split))


def _days(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of days")
    return int(text)


def _renaming(pair: str) -> tuple[str, str]:
    yours, equals, ours = pair.partition("=")
    if not (yours and equals and ours):
        raise argparse.ArgumentTypeError(f"'{pair}' is not YOURS=OURS")
    return yours, ours


if __name__ == "__main__":
    sys.exit(main())
