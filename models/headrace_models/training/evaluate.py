"""`python -m headrace_models.training.evaluate [--later DAYS] [DIRECTORY …]`: model cards, measured again."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch

from headrace_models import spec
from headrace_models.events import Events
from headrace_models.simulator import Truth
from headrace_models.training import source
from headrace_models.training.measure import Figures, measure
from headrace_models.training.recipes import RECIPES
from headrace_models.training.tasks import Task

REPOSITORY: Final = Path(__file__).resolve().parents[2] / "repository"
TOLERANCE: Final = 1e-3


def card_figures(directory: Path) -> Figures:
    """The first table of a model card, as numbers."""
    lines = (directory / "MODEL_CARD.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in _first_table(lines)]
    return {name: float(value.replace(",", "")) for name, value in cells[2:]}


def measured(directory: Path, later_days: int = 0) -> Figures:
    """The same figures from the weights: the same simulated days, the same held-back block.

    `later_days`: what `headrace train --later` was told when it made them.
    """
    found = spec.load_spec(directory)
    recipe = RECIPES[found.name]
    task, truth = _judge(recipe.task, recipe.how.seed, tuple(recipe.world.items()), later_days)
    block = task.split(recipe.how.keep, recipe.how.seed).test
    return measure(spec.load_module(found, directory), task, block, truth)


@lru_cache(maxsize=1)
def _judge(
    kind: Callable[[Events], Task], seed: int, world: tuple[tuple[str, Any], ...], later_days: int
) -> tuple[Task, Truth]:
    """A world is kept for the next model that is judged by it."""
    events, truth = source.simulated(seed, dict(world), later_days)
    return kind(events), truth


def _first_table(lines: list[str]) -> Iterator[str]:
    begun = False
    for line in lines:
        if line.startswith("|"):
            begun = True
            yield line
        elif begun:
            return


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="headrace_models.training.evaluate", description="Measure cards again.")
    parser.add_argument("directories", nargs="*", type=Path, metavar="DIRECTORY", help="default: the shipped models")
    parser.add_argument("--later", type=int, default=0, metavar="DAYS", help="what their training was told")
    options = parser.parse_args(arguments)
    torch.set_num_threads(2)
    worst = 0.0
    for directory in options.directories or sorted(REPOSITORY.glob("*/*")):
        written = card_figures(directory)
        print(directory)
        for name, value in measured(directory, options.later).items():
            print(f"  {name:55} {value:12.4f}   card {written[name]:12.4f}")
            worst = max(worst, abs(value - written[name]) if math.isfinite(value) else math.inf)
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
