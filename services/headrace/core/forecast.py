"""How long a rider who comes now will wait for its answer: what the work in front of it costs, corrected by experience.

One per lane. The cost model knows replicas; this knows what comes on top: a busy event loop, a shared machine, riders
that leave. Learnt from riders that were answered, as TCP learns its retransmission timeout: a mean and a deviation.
"""

from __future__ import annotations

from typing import Final

GAIN: Final = 0.1
"""Weight of the newest batch."""
TRUSTED_AFTER: Final = 20
"""Batches before anybody is refused by a forecast."""
DEVIATIONS: Final = 1.0
"""More would refuse many who make it; one who does not costs a place in the queue, hardly any work."""
BOUNDS: Final = (0.1, 4.0)
"""What one batch may say of the ratio: a pause of the machine is not a trend."""


class Forecast:
    """The ratio of what answers took to what they were expected to take, and by how much they strayed from it."""

    def __init__(self) -> None:
        self._ratio = 1.0
        self._deviation_s = 0.0
        self._seen = 0

    def misses(self, expected_s: float, left_s: float) -> bool:
        """An answer that is expected to take so long would hardly come within `left_s`."""
        return self._seen >= TRUSTED_AFTER and self.likely_s(expected_s) > left_s

    def likely_s(self, expected_s: float) -> float:
        """Most answers come within this."""
        return self._ratio * expected_s + DEVIATIONS * self._deviation_s

    def learn(self, expected_s: float, took_s: float) -> None:
        """One answered rider: what it was told to expect, and what it took."""
        if expected_s <= 0:
            return
        low, high = BOUNDS
        took_s = min(max(took_s, low * expected_s), high * expected_s)
        self._deviation_s += GAIN * (abs(took_s - self._ratio * expected_s) - self._deviation_s)
        self._ratio += GAIN * (took_s / expected_s - self._ratio)
        self._seen += 1
