"""The door: how many riders a gateway holds, whether it is open at all, and how long each may take."""

from __future__ import annotations

import asyncio
from typing import Final

from headrace.config import BatchingSettings
from headrace.core.clock import Clock
from headrace.core.records import RpcRecord
from headrace.errors import DeadlinePassed, NotServing, Overloaded
from headrace.gateway.pressure import Pressure

MOST_MARGIN: Final = 0.25
SHUTTING_DOWN: Final = "GRPC server is shutting down and has stopped accepting new requests."


class Admission:
    """Permits, one a request, held until it is answered."""

    def __init__(self, max_riders: int, clock: Clock, pressure: Pressure) -> None:
        self._max_riders = max_riders
        self._clock = clock
        self._pressure = pressure
        self._empty = asyncio.Event()
        self.open = True
        self.held = 0

    def enter(self) -> None:
        """Take a place for one request. Raises: NotServing while draining, Overloaded when all places are taken."""
        if not self.open:
            raise NotServing(SHUTTING_DOWN)
        if self.held >= self._max_riders:
            raise Overloaded("Exceeds maximum queue size: this gateway holds all the requests it may")
        self.held += 1

    def leave(self) -> None:
        """Give the place back; what `enter` took, once."""
        self.held -= 1
        if not self.held and not self.open:
            self._empty.set()

    def deadline(self, remaining_s: float | None, settings: BatchingSettings, record: RpcRecord) -> float:
        """When this request's caller stops waiting, on our clock: its gRPC deadline or the model's default.

        Less what the loop lately takes to see a request and to tell its answer: a quarter of the time at most, because
        a margin that let nobody in would never hear that it has become too large.

        Raises: DeadlinePassed when that is now.
        """
        now = self._clock.now()
        left_s = settings.default_timeout_ms / 1000
        if remaining_s is not None:
            record.deadline_ns = self._clock.now_ns() + int(remaining_s * 1e9)
            left_s = remaining_s - min(self._pressure.late_s + self._pressure.telling_s, remaining_s * MOST_MARGIN)
        if left_s <= 0:
            raise DeadlinePassed("Request timeout expired")
        return now + left_s

    async def wait_empty(self, timeout_s: float) -> bool:
        """Of a closed door: True once every accepted request is answered, False after `timeout_s`."""
        if not self.held:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True
