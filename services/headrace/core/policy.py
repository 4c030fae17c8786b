"""When a batch closes and who rides in it. Pure: a queue, a budget, a clock's reading, and what room there is.

Work-conserving: while a replica is idle, whatever waits goes at once. While all are busy, riders gather, and
a second batch is staged behind a running one, just in time, when at least as many rows wait as are running.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from headrace.core.cost import CostModel
from headrace.core.queue import RiderQueue
from headrace.core.rider import Rider
from headrace.errors import DeadlinePassed


class CloseReason(Enum):
    """What closed a batch, as its span says it."""

    SLOT = "slot"
    """A replica had room."""
    ROWS = "rows"
    TOKENS = "tokens"
    PREFERRED = "preferred"
    """A preferred size was there."""
    DEADLINE = "deadline"
    """Its tightest rider could wait no longer."""
    DELAY = "delay"
    """Its oldest rider had waited for company long enough."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What one batch may hold, and how long it may wait for company."""

    rows: int
    tokens: int
    delay_s: float = 0.0
    preferred: tuple[int, ...] = ()
    """Rows that end the wait."""

    def batches(self, rows: float, tokens: float) -> float:
        """How many full batches that makes."""
        return max(rows / self.rows, tokens / self.tokens)

    def best_preferred(self, rows: int) -> int:
        """The largest preferred size that so many rows can fill; 0 = none."""
        return max((size for size in self.preferred if size <= rows), default=0)


@dataclass(frozen=True, slots=True)
class Room:
    """The best place a batch could go to now."""

    enough_rows: int = 0
    """As many must wait before a batch is worth sending there; 0 = whatever waits."""
    stage_at: float = 0.0
    """When a batch must leave to be there as the running one ends; earlier, riders had better gather."""
    starts_at: float = 0.0
    """When the replica is expected to begin with it; what is past means now."""
    idle: bool = True
    """Nothing runs there."""
    patience_s: float = float("inf")
    """How long riders gather at most before an idle replica gets fewer than enough."""


def close(queue: RiderQueue, budget: Budget, room: Room | None, cost: CostModel, now: float) -> CloseReason | None:
    """Why a batch should close now, or None to let riders gather."""
    if not queue.rows or room is None:
        return None
    if now < _worthwhile_at(queue, budget, room):
        return None
    if queue.rows >= budget.rows:
        return CloseReason.ROWS
    if queue.tokens >= budget.tokens:
        return CloseReason.TOKENS
    if not budget.delay_s:
        return CloseReason.SLOT
    if budget.best_preferred(queue.rows):
        return CloseReason.PREFERRED
    if now >= queue.waiting_since() + budget.delay_s:
        return CloseReason.DELAY
    return CloseReason.DEADLINE if now >= _latest_start(queue, cost) else None


def look_again_at(queue: RiderQueue, budget: Budget, room: Room, cost: CostModel, now: float) -> float | None:
    """When `close` may change its mind without any new event: the moment to stage, the end of the delay, a deadline."""
    if not queue.rows:
        return None
    if now < (at := _worthwhile_at(queue, budget, room)):
        return at if at < float("inf") else None
    if not budget.delay_s:
        return None
    return min(queue.waiting_since() + budget.delay_s, _latest_start(queue, cost))


def _worthwhile_at(queue: RiderQueue, budget: Budget, room: Room) -> float:
    """When what waits is worth a batch there: just in time, and enough of it; infinity: when more has come."""
    if queue.rows < room.enough_rows and queue.rows < budget.rows and queue.tokens < budget.tokens:
        return queue.waiting_since() + room.patience_s
    return room.stage_at


def _latest_start(queue: RiderQueue, cost: CostModel) -> float:
    """When what waits must go for its tightest rider to make it.

    With one more prediction of slack: the batch must be back, not merely sent, and a prediction can be off.
    """
    return queue.tightest() - 2 * cost.predict_s(queue.tokens)


def take(queue: RiderQueue, budget: Budget, room: Room, cost: CostModel, now: float) -> list[Rider]:
    """Take the riders of the next batch out of the queue, in their turn.

    Never more than the budget (or the preferred size that closed it), but a first rider always rides, however large.
    One who can't be answered in time any more is settled with DeadlinePassed instead; the batch is cut where the next
    rider's tokens would make the tightest deadline on board unreachable. An idle replica tries whatever has time
    left: it loses nothing, and a prediction that has gone wrong is only mended by batches that run.
    """
    riders: list[Rider] = []
    rows = tokens = 0
    tightest = float("inf")
    start = max(now, room.starts_at)
    full = min(budget.rows, budget.best_preferred(queue.rows) or budget.rows)
    while (rider := queue.next()) is not None:
        if now > rider.queued_until:
            queue.time_is_over(rider)
            continue
        inference = rider.inference
        needed_s = 0.0 if room.idle and not riders else cost.predict_s(inference.tokens)
        if start + needed_s > inference.deadline:
            rider.settle(DeadlinePassed("Request timeout expired"))
            continue
        if riders:
            if rows + inference.rows > full or tokens + inference.tokens > budget.tokens:
                break
            earliest = min(tightest, inference.deadline)
            if start + cost.predict_s(tokens + inference.tokens) > earliest:
                break
        queue.pop()
        riders.append(rider)
        rows += inference.rows
        tokens += inference.tokens
        tightest = min(tightest, inference.deadline)
    return riders
