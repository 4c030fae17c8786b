"""When things happen: hours of the day, days of the week, paydays, holidays, a sale. Times are microseconds UTC.

A moment is counted from the first simulated day; `START_US` turns it into wall-clock time.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from headrace_models import wire

START_US: Final = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z, a Thursday."""
FIRST_WEEKDAY: Final = 3
HOURS: Final = np.array(
    [
        [1, 1, 1, 1, 2, 5, 9, 12, 12, 11, 10, 11, 12, 10, 9, 9, 10, 11, 10, 7, 4, 2, 1, 1],
        [1, 1, 1, 1, 1, 2, 4, 7, 9, 9, 9, 11, 13, 11, 9, 9, 10, 12, 13, 12, 9, 6, 4, 2],
        [6, 4, 3, 2, 1, 1, 1, 2, 3, 5, 6, 8, 10, 10, 9, 9, 10, 11, 12, 13, 13, 12, 10, 8],
    ],
    float,
)
"""Weight of each hour in ordinary life, by the card's segment: early, ordinary, late."""
NIGHT: Final = np.array([6, 6, 6, 6, 5, 4, 3, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4, 4, 4, 5, 5, 6, 6], float)
"""The hours of somebody who would rather not be noticed."""
WEEK: Final = np.array([1.0, 1.0, 1.05, 1.05, 1.2, 1.25, 0.85])
"""Weight of each day of the week, Monday first."""
PAYDAY: Final = 28
"""Day of the month on which money arrives: busy from then on, short before."""
HOLIDAYS: Final = (0, 95, 120, 358)
"""Quiet days of the year."""
SALE_EVERY_DAYS: Final = 90
"""Three days of twice the payments come round so often."""
SALE_DAYS: Final = 3


def day_weights(days: int) -> npt.NDArray[np.float64]:
    """How busy each day is."""
    day = np.arange(days)
    weight = WEEK[(day + FIRST_WEEKDAY) % 7]
    month = day_of_month(day)
    weight = np.where((month >= PAYDAY) | (month <= 2), weight * 1.15, weight)
    weight = np.where(np.isin(day % 365, HOLIDAYS), weight * 0.6, weight)
    weights: npt.NDArray[np.float64] = np.where(is_sale(day), weight * 2, weight)
    return weights


def is_sale(day: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    into = day % SALE_EVERY_DAYS
    return (into >= SALE_EVERY_DAYS // 2) & (into < SALE_EVERY_DAYS // 2 + SALE_DAYS)


def day_of_month(day: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """1..31; `day` counts from the start."""
    first = np.datetime64(START_US, "us").astype("datetime64[D]")
    date = first + day.astype("timedelta64[D]")
    since: npt.NDArray[np.int64] = (date - date.astype("datetime64[M]").astype("datetime64[D]")).astype(np.int64)
    return since + 1


def moments(
    rng: np.random.Generator, day: npt.NDArray[np.int64], hours: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """A moment in each of these days, by the weight of each hour (`hours` [24])."""
    hour = rng.choice(24, len(day), p=hours / hours.sum())
    return day * wire.DAY_US + hour * wire.HOUR_US + rng.integers(0, wire.HOUR_US, len(day))


def hour_of(moment: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return moment % wire.DAY_US // wire.HOUR_US
