"""When a version is left alone with copies: a circuit breaker, one per shadow lane.

One that refuses them has others', or hangs: it is left alone for a moment at once. One that fails them all is left
alone for a second from the third batch in a row on: nobody needs thirty more failures to know it, and what it computes
for them is taken from others who share its machine. Each time it is asked in vain the pause of that kind is twice as
long; one answer ends all of them. What the other version failed as well says nothing of this one.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from headrace.core.clock import Clock


class Came(Enum):
    """What came of a copy."""

    ANSWERED = "answered"
    FAILED = "failing"
    REFUSED = "unready"
    NOTHING = ""
    """The comparison was over before, or whoever had answered it had failed as well."""


FAILURES: Final = 3
"""Batches without an answer between them. An error now and then is evidence, of which nothing may be missed."""
FIRST_S: Final = {Came.REFUSED: 0.02, Came.FAILED: 1.0}
LONGEST_S: Final = 5.0


class Breaker:
    """Knows what came of the last batches, and says whether there may be another."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._until = float("-inf")
        self._pauses_s = dict.fromkeys(FIRST_S, 0.0)
        self._cause = ""

    @property
    def hindrance(self) -> str:
        """Why nothing may be sent at this moment, as a cause of drops; empty: it may."""
        return self._cause if self._clock.now() < self._until else ""

    def learn(self, came: set[Came]) -> None:
        """Take note of a batch that is over, by what came of its copies."""
        if Came.ANSWERED in came:
            self._failures, self._until = 0, float("-inf")
            self._pauses_s = dict.fromkeys(FIRST_S, 0.0)
        elif Came.REFUSED in came:
            self._open(Came.REFUSED)
        elif Came.FAILED in came:
            self._failures += 1
            if self._failures >= FAILURES:
                self._open(Came.FAILED)

    def _open(self, why: Came) -> None:
        if self.hindrance:  # sent before the pause, and no more news than what began it
            return
        self._cause = why.value
        self._pauses_s[why] = min(max(2 * self._pauses_s[why], FIRST_S[why]), LONGEST_S)
        self._until = self._clock.now() + self._pauses_s[why]
