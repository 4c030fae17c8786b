"""When a batch closes and who rides in it. Pure: a queue, a budget, a clock's reading, and what room there is.

Work-conserving: while a replica is idle, whatever waits goes at once. While all are busy, riders gather, and
a second batch is staged behind a running one when at least as many rows wait as are running.
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


@dataclass(frozen=True, slots=True)
class Room:
    """The best place a batch could go to now."""

    running_rows: int
    """Rows of the batch it would be staged behind; 0 = the replica is idle."""


def close(queue: RiderQueue, budget: Budget, room: Room | None, cost: CostModel, now: float) -> CloseReason | None:
    """Why a batch should close now, or None to let riders gather."""
    oldest = queue.oldest()
    if oldest is None or room is None:
        return None
    if queue.rows >= budget.rows:
        return CloseReason.ROWS
    if queue.tokens >= budget.tokens:
        return CloseReason.TOKENS
    if queue.rows < room.running_rows:
        return None
    if not budget.delay_s:
        return CloseReason.SLOT
    if now >= oldest.queued_at + budget.delay_s:
        return CloseReason.DELAY
    tightest = min(rider.inference.deadline for rider in queue)
    # One more prediction of slack: the batch must be back, not merely sent, and a prediction can be off.
    return CloseReason.DEADLINE if now + 2 * cost.predict_s(queue.tokens) >= tightest else None


def look_again_at(queue: RiderQueue, budget: Budget, cost: CostModel) -> float | None:
    """When `close` may change its mind without any new event: the end of the delay, or a deadline before it."""
    oldest = queue.oldest()
    if oldest is None or not budget.delay_s:
        return None
    tightest = min(rider.inference.deadline for rider in queue)
    return min(oldest.queued_at + budget.delay_s, tightest - 2 * cost.predict_s(queue.tokens))


def take(queue: RiderQueue, budget: Budget, room: Room, cost: CostModel, now: float) -> list[Rider]:
    """Take the riders of the next batch out of the queue, oldest first.

    Never more than the budget, but a first rider always rides, however large. One who can't be answered in
    time any more is settled with DeadlinePassed instead; the batch is cut where the next rider's tokens
    would make the tightest deadline on board unreachable. An idle replica tries whatever has time left: it
    loses nothing, and a prediction that has gone wrong is only mended by batches that run.
    """
    idle = room.running_rows == 0
    riders: list[Rider] = []
    rows = tokens = 0
    tightest = float("inf")
    while (rider := queue.oldest()) is not None:
        inference = rider.inference
        needed_s = 0.0 if idle and not riders else cost.predict_s(inference.tokens)
        if now + needed_s > inference.deadline:
            rider.settle(DeadlinePassed("Request timeout expired"))
            continue
        if riders:
            if rows + inference.rows > budget.rows or tokens + inference.tokens > budget.tokens:
                break
            earliest = min(tightest, inference.deadline)
            if now + cost.predict_s(tokens + inference.tokens) > earliest:
                break
        queue.pop()
        riders.append(rider)
        rows += inference.rows
        tokens += inference.tokens
        tightest = min(tightest, inference.deadline)
    return riders
