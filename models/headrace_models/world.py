"""The simulated population, and what ordinary payments and fraud both draw from: hours, channels, refusals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headrace_models import wire


@dataclass(frozen=True, slots=True)
class World:
    """The population: what stays the same while events happen. One entry per card or per merchant."""

    card_rate: npt.NDArray[np.float64]
    """Events a day."""
    card_country: npt.NDArray[np.int64]
    card_amount: npt.NDArray[np.float64]
    """Log of the usual amount."""
    card_favourites: npt.NDArray[np.int64]
    merchant_country: npt.NDArray[np.int64]
    merchant_mcc: npt.NDArray[np.int64]
    merchant_amount: npt.NDArray[np.float64]
    merchant_online: npt.NDArray[np.bool_]
    popularity: npt.NDArray[np.float64]


@dataclass(slots=True)
class Draft:
    """Events before they are sorted and hashed: integers name cards, merchants and devices."""

    ts: npt.NDArray[np.int64]
    card: npt.NDArray[np.int64]
    merchant: npt.NDArray[np.int64]
    device: npt.NDArray[np.int64]
    amount: npt.NDArray[np.float64]
    country: npt.NDArray[np.int64]
    channel: npt.NDArray[np.int64]
    outcome: npt.NDArray[np.int64]
    fraud: npt.NDArray[np.bool_]


def moments(rng: np.random.Generator, count: int, days: int, hours: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """`count` moments within `days`, microseconds from the start, by the weight of each hour of the day."""
    day = rng.integers(0, days, count)
    hour = rng.choice(24, count, p=hours / hours.sum())
    return day * wire.DAY_US + hour * wire.HOUR_US + rng.integers(0, wire.HOUR_US, count)


def channels(rng: np.random.Generator, online: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Codes of `wire.CHANNELS`: chip, contactless or magstripe at a till, e-commerce or recurring online."""
    n = len(online)
    till = rng.choice([1, 2, 3], n, p=[0.45, 0.5, 0.05])
    return np.where(online, rng.choice([4, 5], n, p=[0.85, 0.15]), till)


def outcomes(rng: np.random.Generator, refused: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Codes of `wire.OUTCOMES`: approved, or one of the reasons for which issuers refuse."""
    n = len(refused)
    reason = rng.choice([3, 4, 5, 6, 7], n, p=[0.45, 0.3, 0.1, 0.1, 0.05])
    return np.where(rng.random(n) < refused, reason, wire.APPROVED)
