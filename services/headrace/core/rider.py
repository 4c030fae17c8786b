"""A rider: one inference on its way through a batch, with its own reply channel. Nothing else holds its future.

Made by the gateway at the door, queued by a lane, settled exactly once by whoever is first: the answer,
its deadline, its caller's cancellation, or a failure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from headrace.core.inference import Answer, Inference
from headrace.core.records import RpcRecord
from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from headrace.core.queue import Line, RiderQueue


class Rider:
    """One inference, its trace record and the way to wake its caller."""

    __slots__ = (
        "_wake",
        "alarm",
        "due",
        "ends",
        "expected_s",
        "inference",
        "level",
        "line",
        "outcome",
        "queue",
        "queued_at",
        "queued_until",
        "record",
    )

    def __init__(self, inference: Inference, record: RpcRecord, wake: Callable[[], None], level: int = 0) -> None:
        self.inference = inference
        self.record = record
        self.level = level
        """The place of its priority level, 0 = the highest."""
        self.outcome: Answer | HeadraceError | None = None
        self.queue: RiderQueue | None = None
        """The queue it waits in; None before and after."""
        self.line: Line | None = None
        self.queued_at = 0.0
        self.queued_until = float("inf")
        """When it has waited long enough for a batch, by its level's policy."""
        self.due = float("inf")
        """When it is lost if it still waits: its deadline, or the end of `queued_until`, whichever is first."""
        self.ends: tuple[float, float, float] | None = None
        """Of the last in a batch: its first rider's `expected_s` and `queued_at`, and when the batch was answered."""
        self.expected_s = 0.0
        """How long its answer was to take when it came, by the work in front of it; 0 = nobody could say."""
        self.alarm: TimerHandle | None = None
        """The lane's timer for the end of its patience."""
        self._wake = wake

    def settle(self, outcome: Answer | HeadraceError) -> bool:
        """Give the rider its one outcome and wake its caller. False: it had one already, and keeps it."""
        if self.outcome is not None:
            return False
        self.outcome = outcome
        if self.queue is not None:
            self.queue.forget(self)
        self._wake()
        return True
