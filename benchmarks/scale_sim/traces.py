"""What callers do: rates over time, at most 100,000 requests a second, and rows that arrive in steps, by a seed.

A trace begins with `settle_s` of its first rate, which nobody counts. Rates wander (`WANDER`, an assumption): an
exponential of an autoregressive process, and Poisson arrivals on top of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scale_sim.world import STEP_S, TICK_S

Array = NDArray[np.float64]
DAY_S: Final = 3_600.0
PEAK: Final = 100_000.0
WANDER: Final = 0.06
"""Standard deviation of a rate's logarithm around what the trace says."""
WANDER_S: Final = 2.0
"""How long such a deviation lasts."""


@dataclass(frozen=True)
class Trace:
    """`rate(t)` is requests a second, t seconds after the settling."""

    name: str
    says: str
    length_s: float
    rate: Callable[[Array], Array]
    losses: tuple[tuple[float, float], ...] = ()
    """(second, share): so many of the replicas, and their nodes, are gone from one moment to the next."""
    settle_s: float = 300.0

    def within(self, seconds: float, settle_s: float) -> Trace:
        """The same, hurried: to see that everything runs, not what comes of it."""
        pace = self.length_s / seconds
        losses = tuple((round(at / pace / TICK_S) * TICK_S, share) for at, share in self.losses)
        return replace(self, length_s=seconds, rate=Hurried(self.rate, pace), losses=losses, settle_s=settle_s)

    def rates(self, seed: int) -> Array:
        """Requests a second in each tick, the settling included."""
        ticks = int((self.settle_s + self.length_s) / TICK_S)
        seconds = np.arange(ticks) * TICK_S - self.settle_s
        plan = self.rate(np.maximum(seconds, 0.0))
        # Replicas come before the traffic does: nobody begins with an overload.
        plan = plan * np.minimum(1.0, 0.5 + (seconds + self.settle_s) / self.settle_s)
        return np.minimum(PEAK, plan * np.exp(wander(ticks, seed)))

    def arrivals(self, seeds: tuple[int, ...]) -> Iterator[Array]:
        """For each tick: rows that arrive in each of its steps, by seed: [steps, seeds]."""
        rates = np.stack([self.rates(seed) for seed in seeds], axis=-1)
        draws = [np.random.default_rng((7, seed)) for seed in seeds]
        steps = round(TICK_S / STEP_S)
        for now in rates:
            columns = [draw.poisson(rate * STEP_S, steps) for draw, rate in zip(draws, now, strict=True)]
            yield np.stack(columns, axis=-1).astype(np.float64)


@dataclass(frozen=True)
class Hurried:
    rate: Callable[[Array], Array]
    pace: float

    def __call__(self, seconds: Array) -> Array:
        return self.rate(seconds * self.pace)


def wander(ticks: int, seed: int) -> Array:
    """An autoregressive process of deviation `WANDER` that forgets within `WANDER_S`."""
    keep = np.exp(-TICK_S / WANDER_S)
    noise = np.random.default_rng((3, seed)).normal(0.0, WANDER * np.sqrt(1 - keep**2), ticks)
    values = np.empty(ticks)
    last = 0.0
    for i, push in enumerate(noise):
        last = keep * last + push
        values[i] = last
    return values


def day(seconds: Array) -> Array:
    """Night, a steep morning, noon, a higher evening: a day pressed into `DAY_S`."""
    hours = np.array([0, 3, 5, 7, 9, 12, 14, 17, 19.5, 21, 22.5, 24])
    share = np.array([0.18, 0.10, 0.12, 0.35, 0.62, 0.80, 0.70, 0.78, 1.00, 0.75, 0.35, 0.18])
    return 0.9 * PEAK * np.interp(seconds / DAY_S * 24, hours, share)


def flash(seconds: Array) -> Array:
    """A sale opens: four times the traffic within ten seconds, for three minutes, then it ebbs away."""
    opens, base, top = 120.0, 0.22 * PEAK, 0.88 * PEAK
    rising = np.clip((seconds - opens) / 10, 0, 1)
    ebbing = np.exp(-np.maximum(0.0, seconds - opens - 190) / 120)
    return base + (top - base) * rising * ebbing


def outage(seconds: Array) -> Array:
    """Callers lose their network for eight minutes, then come back all at once, with what they have missed."""
    usual, away, back = 0.5 * PEAK, 120.0, 600.0
    gone = np.clip((seconds - away) / 5, 0, 1) * (seconds < back)
    again = 0.8 * np.exp(-np.maximum(0.0, seconds - back) / 60) * (seconds >= back)
    return usual * (1 - 0.96 * gone + again)


def steady(seconds: Array) -> Array:
    return np.full_like(seconds, 0.6 * PEAK)


TRACES: Final = (
    Trace("diurnal", "a day in an hour: slopes 24 times as steep", DAY_S, day),
    Trace("flash-sale", "four times 22,000/s within ten seconds", 900.0, flash),
    Trace("outage", "callers away for eight minutes, back at 1.8 times", 900.0, outage),
    Trace(
        "node-loss",
        "60,000/s; a third of the replicas lost, twice",
        720.0,
        steady,
        ((120.0, 1 / 3), (420.0, 1 / 3)),
    ),
)
