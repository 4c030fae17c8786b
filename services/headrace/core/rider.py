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
    from headrace.core.queue import RiderQueue


class Rider:
    """One inference, its trace record and the way to wake its caller."""

    __slots__ = ("_wake", "inference", "outcome", "queue", "queued_at", "record")

    def __init__(self, inference: Inference, record: RpcRecord, wake: Callable[[], None]) -> None:
        self.inference = inference
        self.record = record
        self.outcome: Answer | HeadraceError | None = None
        self.queue: RiderQueue | None = None
        """The queue it waits in; None before and after."""
        self.queued_at = 0.0
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
