"""Where the simulated payments of a training run come from: a recipe's world, or the same kind of world later on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headrace_models import simulator, wire
from headrace_models.events import Events
from headrace_models.simulator import Truth


def simulated(seed: int, world: Mapping[str, Any], later_days: int = 0) -> tuple[Events, Truth]:
    """The world's days of payments, and how each came about; `later_days`: beginning so many days later.

    What came before those days is gone, as it is for a version that is refreshed from the newest months: its blocks
    of time are as long as without it, and each lies `later_days` further on.
    """
    events, truth = simulator.with_truth(seed, **{**world, "days": world["days"] + later_days})
    first = int(np.searchsorted(events.ts, simulator.START_US + later_days * wire.DAY_US))
    kept = Truth(truth.scenario[first:], truth.episode[first:], truth.chances[first:])
    return events.take(np.arange(first, len(events))), kept


def in_words(seed: int, world: Mapping[str, Any], later_days: int = 0) -> str:
    """The same for a model card."""
    size = ", ".join(f"{name} {value:,}" for name, value in world.items())
    later = f", beginning {later_days} days later" if later_days else ""
    return f"The simulator ({size}{later}), seed {seed}"
