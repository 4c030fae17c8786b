"""The riders that wait for one lane: first in, first out, bounded in rows. Those who have left are skipped.

Owned by a lane of the gateway; touched by nobody else. Counts are of the living: a rider that is settled
while it waits stops counting at once, its place in the deque is swept later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from headrace.core.rider import Rider
from headrace.errors import Overloaded

SWEEP_AT = 64
"""Dead places that may stand in the deque before it is rebuilt (they also must outnumber the living)."""


class RiderQueue:
    """A bounded FIFO of riders."""

    def __init__(self, max_rows: int) -> None:
        self._riders: deque[Rider] = deque()
        self._max_rows = max_rows
        self._dead = 0
        self.rows = 0
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._riders) - self._dead

    def __iter__(self) -> Iterator[Rider]:
        """The living, oldest first."""
        return (rider for rider in self._riders if rider.outcome is None)

    def push(self, rider: Rider, now: float) -> None:
        """Take a place at the end. Raises: Overloaded when its rows would not fit."""
        rows = rider.inference.rows
        if self.rows + rows > self._max_rows:
            raise Overloaded("Exceeds maximum queue size")
        rider.queued_at = now
        rider.queue = self
        self._riders.append(rider)
        self.rows += rows
        self.tokens += rider.inference.tokens

    def forget(self, rider: Rider) -> None:
        """A rider was settled where it waits: its rows are free at once."""
        self._leave(rider)
        self._dead += 1
        if self._dead > SWEEP_AT and self._dead * 2 > len(self._riders):
            self._riders = deque(self)
            self._dead = 0

    def oldest(self) -> Rider | None:
        """The living rider that has waited longest."""
        self._skip_dead()
        return self._riders[0] if self._riders else None

    def pop(self) -> Rider | None:
        """Take the oldest living rider out."""
        rider = self.oldest()
        if rider is not None:
            self._riders.popleft()
            self._leave(rider)
        return rider

    def _leave(self, rider: Rider) -> None:
        rider.queue = None
        self.rows -= rider.inference.rows
        self.tokens -= rider.inference.tokens

    def _skip_dead(self) -> None:
        riders = self._riders
        while riders and riders[0].outcome is not None:
            riders.popleft()
            self._dead -= 1
