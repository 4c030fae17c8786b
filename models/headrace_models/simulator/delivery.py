"""How events reach those who keep histories: some twice, some late, some in the wrong order."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from headrace_models import wire
from headrace_models.events import Events

DUPLICATES: Final = 0.005
LATE: Final = 0.01
SWAPPED: Final = 0.02


def deliver(events: Events, seed: int) -> npt.NDArray[np.int64]:
    """The order of arrival: indices into `events`, 0.5 % of them twice, 1 % hours late, 2 % seconds out of order."""
    rng = np.random.default_rng(seed)
    n = len(events)
    arrival = events.ts.astype(np.float64)
    late, swapped = rng.random(n) < LATE, rng.random(n) < SWAPPED
    arrival[late] += rng.exponential(3 * wire.HOUR_US, late.sum())
    arrival[swapped] += rng.uniform(0, 60e6, swapped.sum())
    again = np.flatnonzero(rng.random(n) < DUPLICATES)
    index = np.concatenate([np.arange(n), again])
    when = np.concatenate([arrival, arrival[again] + rng.exponential(60e6, len(again))])
    return index[np.argsort(when, kind="stable")]
