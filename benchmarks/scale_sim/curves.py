"""Misses against replica-hours: a curve a contender, and what it says at somebody else's replica-hours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from scale_sim.policies import OURS, Contender
from scale_sim.replay import Replayed

Array = NDArray[np.float64]
LEAST: Final = 1e-7
"""Shares below this are the same on a logarithmic scale: less than one request in the runs."""
GOOD: Final = 1e-3
"""The share of misses that replica-hours are asked for."""


@dataclass(frozen=True)
class Curve:
    """[setting, seed], by falling settings of the knob as the contender lists them."""

    name: str
    knob: str
    settings: tuple[float, ...]
    hours: Array
    missed: Array
    """Share of the requests that were refused or late."""

    def missed_at(self, hours: Array) -> Array:
        """Of each seed at its `hours`, at best: on a line between settings; NaN where it can't do with so few."""
        return np.array([self._at(seed, float(wanted)) for seed, wanted in enumerate(hours)])

    def _at(self, seed: int, wanted: float) -> float:
        hours, missed = self._best(seed)
        if wanted < hours[0] * (1 - 1e-9):
            return math.nan
        return float(np.exp(np.interp(wanted, hours, np.log(missed))))

    def best(self) -> tuple[Array, Array]:
        """Hours and shares of the settings that no other beats, at the medians of the seeds."""
        hours, missed = np.median(self.hours, axis=1), np.median(self.missed, axis=1)
        order = np.lexsort((missed, hours))
        kept = [at for n, at in enumerate(order) if not n or missed[at] < missed[order[:n]].min()]
        return hours[kept], missed[kept]

    def hours_for(self, share: float) -> Array:
        """Replica-hours that keep misses at `share`, of each seed; NaN where no setting does."""
        return np.array([self._for(seed, share) for seed in range(self.hours.shape[1])])

    def _for(self, seed: int, share: float) -> float:
        hours, missed = self._best(seed)
        if missed[-1] > share:
            return math.nan
        return float(np.interp(-math.log(share), -np.log(missed), hours))

    def _best(self, seed: int) -> tuple[Array, Array]:
        """By rising hours, and never more misses with more of them: nobody has to use a setting that does worse."""
        order = np.argsort(self.hours[:, seed])
        missed = np.minimum.accumulate(np.maximum(self.missed[order, seed], LEAST))
        return self.hours[order, seed], missed


def curves(replayed: Replayed, contenders: tuple[Contender, ...]) -> list[Curve]:
    missed = (replayed.refused + replayed.late) / replayed.arrived
    found, begin = [], 0
    for one in contenders:
        part = slice(begin, begin + len(one.settings))
        found.append(Curve(one.name, one.knob, one.settings, replayed.replica_s[part] / 3600, missed[part]))
        begin = part.stop
    return found


def compared(found: list[Curve], shipped: float) -> list[dict[str, Any]]:
    """Each contender at the replica-hours of headrace's shipped setting, or at its own least where that is more."""
    ours = next(curve for curve in found if curve.name == OURS)
    given = ours.hours[ours.settings.index(shipped)]
    return [_at(curve, np.maximum(given, curve.hours.min(axis=0))) | {"policy": curve.name} for curve in found]


def _at(curve: Curve, hours: Array) -> dict[str, Any]:
    return {
        "hours": spread(hours),
        "least": bool((hours <= curve.hours.min(axis=0)).any()),
        "missed": spread(curve.missed_at(hours)),
        "hours_for_good": spread(curve.hours_for(GOOD)),
    }


def spread(values: Array) -> list[float] | None:
    """Median, lowest, highest; None where a seed has no value."""
    if np.isnan(values).any():
        return None
    return [float(np.median(values)), float(values.min()), float(values.max())]
