"""Whether replicas slow each other down: two on the cores of one machine are not twice as many.

One per lane. A batch that ran beside others of the lane is held against those that ran alone, each by what it was
predicted to take. Where company costs as much as it brings, riders had better gather than open another replica.
"""

from __future__ import annotations

from typing import Final

GAIN: Final = 0.05
TOO_MUCH: Final = 1.4
"""Beside another, a batch takes so many times as long: two at once are hardly sooner done than one after the other."""
TRUSTED_AFTER: Final = 20
"""Batches of either kind before anything is said."""


class Sharing:
    """How long batches take, as a share of their prediction, alone and beside others."""

    def __init__(self) -> None:
        self._alone = Mean()
        self._beside = Mean()

    @property
    def slowdown(self) -> float:
        """How many times as long a batch takes beside others; 1 = they don't notice each other, or nobody knows."""
        if min(self._alone.seen, self._beside.seen) < TRUSTED_AFTER or not self._alone.value:
            return 1.0
        return self._beside.value / self._alone.value

    @property
    def costly(self) -> bool:
        return self.slowdown > TOO_MUCH

    def observe(self, share: float, *, alone: bool) -> None:
        """One batch: the seconds it took ÷ those it was predicted to take."""
        (self._alone if alone else self._beside).add(min(share, 5.0))


class Mean:
    """An exponential mean that begins as a plain one."""

    def __init__(self) -> None:
        self.value = 0.0
        self.seen = 0

    def add(self, value: float) -> None:
        self.seen += 1
        self.value += max(GAIN, 1 / self.seen) * (value - self.value)
