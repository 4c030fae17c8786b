"""When requests are meant to arrive, decided before any is sent: Poisson at a rate, or with bursts.

Whether the server keeps up moves none of these times: that is what makes a loop open.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bursts:
    """`factor` times the rate during the last `length_s` of every `period_s`: each burst has its quiet before it."""

    factor: float = 10.0
    length_s: float = 0.2
    period_s: float = 2.0

    def phase_s(self, times: Times) -> Times:
        """Seconds since the last burst ended (or the load began)."""
        return times % self.period_s

    def inside(self, times: Times) -> npt.NDArray[np.bool_]:
        return self.phase_s(times) >= self.period_s - self.length_s


def poisson(rate: float, seconds: float, seed: int) -> Times:
    """Arrivals at `rate` a second, from 0 to `seconds`, ascending."""
    return _below(_unit_arrivals(rate * seconds, seed) / rate, seconds)


def bursty(rate: float, seconds: float, seed: int, bursts: Bursts) -> Times:
    """As `poisson`, `rate` being that between bursts."""
    quiet_s = bursts.period_s - bursts.length_s
    periods = int(np.ceil(seconds / bursts.period_s))
    # Expected arrivals grow piecewise linearly with time: unit arrivals are mapped back through that line.
    moments = np.arange(periods)[:, None] * bursts.period_s + np.array([0.0, quiet_s])
    moments = np.append(moments, periods * bursts.period_s)
    rates = np.tile([rate, rate * bursts.factor], periods)
    expected = np.append(0.0, np.cumsum(np.diff(moments) * rates))
    return _below(np.interp(_unit_arrivals(expected[-1], seed), expected, moments), seconds)


def _unit_arrivals(expected: float, seed: int) -> Times:
    """One a unit of time on average, to `expected` and not beyond."""
    enough = int(expected + 6 * np.sqrt(expected) + 10)
    times = np.cumsum(np.random.default_rng(seed).exponential(1.0, enough))
    return _below(times, expected)


def _below(times: Times, end: float) -> Times:
    return times[times < end]
