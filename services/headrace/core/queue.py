"""The riders that wait for one lane: by priority level, first in, first out, bounded in rows.

Owned by a lane of the gateway; touched by nobody else. Counts are of the living: a rider that is settled
while it waits stops counting at once, its place in the line is swept later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from headrace.core.rider import Rider
from headrace.errors import DeadlinePassed, Overloaded

SWEEP_AT: Final = 64
"""Dead places that may stand in a line before it is rebuilt (they also must outnumber the living)."""
MAX_OWED: Final = 64.0
"""Rows that the lowest level may be owed: what it missed long ago is not made up for."""


@dataclass(frozen=True, slots=True)
class LevelPolicy:
    """How the riders of one level wait."""

    max_rows: int = 0
    """0 = only the queue's own bound."""
    timeout_s: float = 0.0
    """How long a rider may wait here; 0 = until its deadline."""
    timeout_may_be_shorter: bool = True
    """A rider's own timeout counts where it is shorter."""
    delays: bool = False
    """One whose time is over goes behind those who have time left; otherwise it is refused."""

    def timeout_of(self, asked_s: float) -> float:
        """How long a rider may wait that asks for `asked_s` (0 = it does not ask); infinity where nothing says so."""
        if self.timeout_may_be_shorter and 0 < asked_s < self.timeout_s:
            return asked_s
        return self.timeout_s or float("inf")


class Line:
    """Riders one after the other."""

    __slots__ = ("dead", "riders")

    def __init__(self) -> None:
        self.riders: deque[Rider] = deque()
        self.dead = 0

    def first(self) -> Rider | None:
        """The living rider in front."""
        riders = self.riders
        while riders and riders[0].line is not self:
            riders.popleft()
            self.dead -= 1
        return riders[0] if riders else None

    def leave(self, rider: Rider) -> None:
        """A rider goes from wherever it stands; its place is swept when the dead outnumber the living."""
        rider.line = None
        self.dead += 1
        if self.dead > SWEEP_AT and self.dead * 2 > len(self.riders):
            self.riders = deque(one for one in self.riders if one.line is self)
            self.dead = 0


class Soonest:
    """Who of a level is lost first, wherever it stands: a step a rider, for most come in the order they are lost in.

    Of two, the one who comes later and is lost sooner hides the other one. If it leaves early, the other is seen again
    when it stands in front.
    """

    __slots__ = ("_riders",)

    def __init__(self) -> None:
        self._riders: deque[Rider] = deque()

    def add(self, rider: Rider, rows: int) -> None:
        """One more waits, in a level of so many rows: those who have left are swept when they are twice as many."""
        riders, due = self._riders, rider.due
        while riders and riders[-1].due >= due:
            riders.pop()
        riders.append(rider)
        if len(riders) > SWEEP_AT + 2 * rows:
            self._riders = deque(one for one in riders if one.queue is not None)

    def move(self, rider: Rider, rows: int) -> None:
        """One who waits is lost at another time than when it came."""
        if rider in self._riders:  # in front, mostly: its time was the first to be over
            self._riders.remove(rider)
        self.add(rider, rows)

    def first(self) -> Rider | None:
        riders = self._riders
        while riders and riders[0].queue is None:
            riders.popleft()
        return riders[0] if riders else None

    def clear(self) -> None:
        """Nobody waits: let go of those who did."""
        self._riders.clear()


class Level:
    """One priority level: those in time, and behind them those whose time is over and who are served all the same."""

    __slots__ = ("late", "policy", "punctual", "rows", "soonest", "tokens")

    def __init__(self, policy: LevelPolicy) -> None:
        self.policy = policy
        self.punctual = Line()
        self.late = Line()
        self.soonest = Soonest()
        self.rows = 0
        self.tokens = 0

    def first(self) -> Rider | None:
        return self.punctual.first() or self.late.first()

    def tightest(self) -> float:
        firsts = self.soonest.first(), self.punctual.first(), self.late.first()
        return min((first.due for first in firsts if first is not None), default=float("inf"))


class RiderQueue:
    """A bounded queue of riders: strict priority, with a share for the lowest level."""

    def __init__(
        self, max_rows: int, policies: Sequence[LevelPolicy] = (LevelPolicy(),), default: int = 1, share: float = 0.0
    ) -> None:
        self._max_rows = max_rows
        self._levels = [Level(policy) for policy in policies]
        self._lowest = self._levels[-1]
        self._default = default - 1
        self._share = share
        self._owed = 0.0
        """Rows that the lowest level has a right to before anybody else goes."""
        self.rows = 0
        self.tokens = 0

    def __len__(self) -> int:
        return sum(len(line.riders) - line.dead for line in self._lines())

    def __iter__(self) -> Iterator[Rider]:
        """The living: by level, in time before late, oldest first."""
        for line in self._lines():
            yield from (rider for rider in line.riders if rider.line is line)

    def level_of(self, priority: int) -> int:
        """The place of a request's level: 0 = the highest. `priority` 0, or beyond the last: the default one."""
        return priority - 1 if 0 < priority <= len(self._levels) else self._default

    def policy_of(self, level: int) -> LevelPolicy:
        return self._levels[level].policy

    def ahead(self, level: int) -> tuple[int, int]:
        """(rows, tokens) of those who go before one who would come to this level now."""
        if len(self._levels) == 1:
            return self.rows, self.tokens
        before = self._levels[: level + 1]
        return sum(one.rows for one in before), sum(one.tokens for one in before)

    def push(self, rider: Rider, now: float) -> None:
        """Take a place at the end of its level. Raises: Overloaded when its rows would not fit."""
        level, inference = self._levels[rider.level], rider.inference
        bound = level.policy.max_rows
        if self.rows + inference.rows > self._max_rows or (bound and level.rows + inference.rows > bound):
            raise Overloaded("Exceeds maximum queue size")
        rider.queued_at = now
        rider.due = min(inference.deadline, rider.queued_until)
        rider.queue = self
        self._join(level.punctual, rider)
        level.soonest.add(rider, level.rows)
        level.rows += inference.rows
        level.tokens += inference.tokens
        self.rows += inference.rows
        self.tokens += inference.tokens

    def forget(self, rider: Rider) -> None:
        """A rider leaves, to ride or settled where it waits: its rows are free at once."""
        assert rider.line is not None, "This is a bug."
        rider.line.leave(rider)
        rider.queue = None
        level, inference = self._levels[rider.level], rider.inference
        level.rows -= inference.rows
        level.tokens -= inference.tokens
        self.rows -= inference.rows
        self.tokens -= inference.tokens
        if not level.rows:
            level.soonest.clear()

    def time_is_over(self, rider: Rider) -> None:
        """The rider has waited as long as it may: it is refused or, by its level's policy, goes behind the others."""
        level = self._levels[rider.level]
        if not level.policy.delays:
            rider.settle(DeadlinePassed("Request timeout expired"))
        elif rider.line is level.punctual:
            rider.queued_until = float("inf")
            rider.due = rider.inference.deadline
            level.punctual.leave(rider)
            self._join(level.late, rider)
            level.soonest.move(rider, level.rows)

    def next(self) -> Rider | None:
        """The living rider whose turn it is."""
        if self._owed > 0 and (first := self._lowest.first()) and self._owed >= first.inference.rows:
            return first
        for level in self._levels:
            if (first := level.first()) is not None:
                return first
        return None

    def pop(self) -> Rider | None:
        """Take the rider out whose turn it is."""
        rider = self.next()
        if rider is not None:
            self._pay(rider)
            self.forget(rider)
        return rider

    def waiting_since(self) -> float:
        """When the one came who has waited longest; infinity where nobody waits."""
        firsts = (line.first() for line in self._lines())
        return min((first.queued_at for first in firsts if first is not None), default=float("inf"))

    def tightest(self) -> float:
        """When the first of those who wait is lost: answered too late, or refused; infinity where nobody waits."""
        return min([level.tightest() for level in self._levels]) if self.rows else float("inf")

    def _pay(self, rider: Rider) -> None:
        """Whoever goes before the lowest level owes it its share; whoever goes from there has had it."""
        if not self._share or not self._lowest.rows:
            self._owed = 0.0
        elif self._levels[rider.level] is self._lowest:
            self._owed = max(0.0, self._owed - rider.inference.rows)
        else:
            self._owed = min(MAX_OWED, self._owed + rider.inference.rows * self._share / (1 - self._share))

    def _lines(self) -> Iterator[Line]:
        return chain.from_iterable((level.punctual, level.late) for level in self._levels)

    def _join(self, line: Line, rider: Rider) -> None:
        rider.line = line
        line.riders.append(rider)
