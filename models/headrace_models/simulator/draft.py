"""Payments before they are hashed and sorted: integers name cards, merchants and devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from headrace_models.simulator.world import World

ORDINARY, TAKE_OVER, TESTING, COMPROMISED, FRIENDLY = range(5)
NAMES: Final = {
    TAKE_OVER: "account take-over",
    TESTING: "card testing",
    COMPROMISED: "compromised merchant",
    FRIENDLY: "friendly fraud",
}
ECOMMERCE, RECURRING = 4, 5
"""Codes of `wire.CHANNELS`."""


@dataclass(slots=True, kw_only=True)
class Draft:
    """First attempts: one entry a payment."""

    ts: npt.NDArray[np.int64]
    """Microseconds from the first simulated day."""
    card: npt.NDArray[np.int64]
    merchant: npt.NDArray[np.int64]
    device: npt.NDArray[np.int64]
    amount: npt.NDArray[np.float64]
    country: npt.NDArray[np.int64]
    channel: npt.NDArray[np.int64]
    strain: npt.NDArray[np.float64]
    """Log odds by which its issuer is likelier to refuse it than an ordinary payment."""
    scenario: npt.NDArray[np.int8]
    episode: npt.NDArray[np.int32]
    """0 for ordinary life; frauds of one episode share a number."""

    def __len__(self) -> int:
        return len(self.ts)

    @classmethod
    def join(cls, parts: Sequence[Draft]) -> Self:
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    def take(self, index: npt.NDArray[Any]) -> Draft:
        return Draft(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


def channels(rng: np.random.Generator, online: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Codes of `wire.CHANNELS`: chip, contactless or magstripe at a till, e-commerce online."""
    till = rng.choice([1, 2, 3], len(online), p=[0.45, 0.5, 0.05])
    return np.where(online, ECOMMERCE, till)


def new_devices(rng: np.random.Generator, world: World, n: int) -> npt.NDArray[np.int64]:
    """Devices that nobody in this world owns."""
    return world.cards + rng.integers(0, 1 << 24, n)
