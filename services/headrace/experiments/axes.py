"""Where a value lies on an axis, and which values an axis names. Knows no SVG.

A position never leaves the plot: what lies beyond an axis is drawn at its end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, NamedTuple

LETTER: Final = 7.6
"""Width of a letter of 12 px, on the wide side: system fonts differ."""
GAP: Final = 10.0
STEPS_S: Final = (60, 300, 900, 1800, 3600, 10800, 21600, 43200, 86400, 172800, 604800, 2419200)


class Tick(NamedTuple):
    """A value that an axis names."""

    at: float
    label: str


class Scale(NamedTuple):
    """Values from `low` to `high` on positions from `start` to `end`, straight or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(each) if self.log else each for each in (self.low, self.high, self.held(value)))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def held(self, value: float) -> float:
        """The value, or the end of the axis that it lies beyond."""
        return min(max(value, self.low), self.high)


def width(label: str) -> float:
    """Of a label, at most."""
    return LETTER * len(label)


def apart(ticks: Iterable[Tick]) -> list[Tick]:
    """The ticks, the most important first, without those whose label would touch another one's."""
    kept: list[Tick] = []
    for tick in ticks:
        if all(abs(tick.at - other.at) >= (width(tick.label) + width(other.label)) / 2 + GAP for other in kept):
            kept.append(tick)
    return kept


def round_values(high: float, about: int = 5) -> list[float]:
    """From 0 to `high` in steps of 1, 2 or 5 times a power of ten."""
    raw = high / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    return [float(step * number) for number in range(int(high / step + 1e-9) + 1)]


def log_values(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two positive values; the powers first, as they matter most."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [factor * 10.0**exponent for factor in (1, 2, 5) for exponent in exponents]
    return [value for value in values if low <= value <= high]


def moments(low: float, high: float, about: int) -> list[tuple[float, str]]:
    """Full hours or days between two times in seconds since 1970, as `14:00` or `12 Nov`, in UTC."""
    step = next((each for each in STEPS_S if (high - low) / each <= about), STEPS_S[-1])
    first = math.ceil(low / step) * step
    return [(at, _clock(at)) for at in range(int(first), int(high) + 1, step)]


def _clock(at: float) -> str:
    moment = datetime.fromtimestamp(at, UTC)
    return f"{moment.day} {moment:%b}" if at % 86400 == 0 else f"{moment:%H:%M}"
