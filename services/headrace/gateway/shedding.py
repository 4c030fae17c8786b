"""When copies give way to payments, and for how long. One per gateway: every shadow lane asks it.

A burst is over in a moment, and so is the pause after it. What comes again and again is no burst: each time the pause
is twice as long, so that a gateway with more payments than it can answer does next to nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from headrace.core.clock import Clock

SHORTEST_S: Final = 0.02
LONGEST_S: Final = 5.0
CALM_S: Final = 1.0
"""Without strain for so long after a pause, the next one is the first again."""


class Shedding:
    """`strained`: whether payments need what copies would take, at this moment."""

    def __init__(self, clock: Clock, strained: Callable[[], bool]) -> None:
        self._clock = clock
        self._strained = strained
        self._until = float("-inf")
        self._pause_s = SHORTEST_S

    def pauses(self) -> bool:
        """Whether copies must give way now."""
        now = self._clock.now()
        if now < self._until:
            return True
        if not self._strained():
            return False
        again = now < self._until + CALM_S
        self._pause_s = min(2 * self._pause_s, LONGEST_S) if again else SHORTEST_S
        self._until = now + self._pause_s
        return True
