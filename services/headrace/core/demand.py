"""What a lane asks of its replicas: the work that waits, the time it has, and the work that arrives.

A gateway says it with every batch; Serve scales a version by what all its gateways say (`serving/scaling.py`).
Pure. Counts, never objects: a request costs a few additions, a batch a few sums.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from headrace.core.cost import CostModel
from headrace.core.policy import Budget
from headrace.core.queue import RiderQueue

MEMORY_S: Final = 1.0
"""How far back rates look: what came so long ago counts a third. Shorter follows noise; longer delays every replica."""
STEP_S: Final = 0.05
"""Rates move at most so often, however small the batches are."""


class Demand(NamedTuple):
    """What one gateway says of one lane, as of one moment."""

    backlog_s: float
    """Replica-seconds of work that wait."""
    slack_s: float
    """The least time that one who waits has, beyond the run of the next batch; infinity where nobody waits."""
    work: float
    """Replica-seconds of work that arrive in a second, at full batches."""
    replicas: int
    """Those it spreads the lane over: what each is told is its part of the whole times so many."""


NONE: Final = Demand(0.0, math.inf, 0.0, 1)
"""Nothing that any replica is needed for."""


class Arrivals:
    """How many rows and tokens come in a second, fading by `MEMORY_S`. Those that were refused have come as well."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._riders = self._rows = self._tokens = self._refused = 0
        self._rows_each = self._tokens_each = 0.0
        self._rows_s = self._tokens_s = 0.0

    def add(self, rows: int, tokens: int) -> None:
        """One more has come."""
        self._riders += 1
        self._rows += rows
        self._tokens += tokens

    def add_unseen(self) -> None:
        """One more was refused before it was decoded: it counts as much as those that were decoded."""
        self._refused += 1

    def rates(self, now: float) -> tuple[float, float]:
        """Rows and tokens a second."""
        passed_s = now - self._since
        if passed_s >= STEP_S:
            self._fade(passed_s)
            self._since = now
            self._riders = self._rows = self._tokens = self._refused = 0
        return self._rows_s, self._tokens_s

    def _fade(self, passed_s: float) -> None:
        if self._riders:
            self._rows_each, self._tokens_each = self._rows / self._riders, self._tokens / self._riders
        rows = self._rows + self._refused * self._rows_each
        tokens = self._tokens + self._refused * self._tokens_each
        newest = 1 - math.exp(-passed_s / MEMORY_S)
        self._rows_s += newest * (rows / passed_s - self._rows_s)
        self._tokens_s += newest * (tokens / passed_s - self._tokens_s)


def backlog_s(queue: RiderQueue, budget: Budget, cost: CostModel) -> float:
    """Replica-seconds of work that wait: full batches of what is queued."""
    rows, tokens = queue.rows, queue.tokens
    return cost.drain_s(math.ceil(budget.batches(rows, tokens)), tokens) if rows else 0.0


def slack_s(queue: RiderQueue, budget: Budget, cost: CostModel, now: float) -> float:
    """The least time that one who waits has, beyond the next batch's run; 0 = it is late, infinity: nobody waits."""
    run_s = cost.predict_s(min(queue.tokens, budget.tokens))
    return max(0.0, queue.tightest() - now - run_s)


def work(arrivals: Arrivals, budget: Budget, cost: CostModel, now: float) -> float:
    """Replica-seconds of work that arrive in a second, at full batches: what it would take at least."""
    rows_s, tokens_s = arrivals.rates(now)
    return cost.drain_s(budget.batches(rows_s, tokens_s), tokens_s)
