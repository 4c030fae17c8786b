"""What waits at this gateway although a replica of its lane is idle: work for more gateways, not for more replicas.

A mean over the last seconds: who scales keeps the highest of what it was told for minutes, and one look may be a burst.
"""

from __future__ import annotations

import asyncio
from typing import Final

from headrace.gateway.lane import Lane
from headrace.gateway.models import Models

PERIOD_S: Final = 0.05
MEAN_S: Final = 5.0
"""About so far back."""
GAIN: Final = PERIOD_S / MEAN_S


class Queued:
    """One per gateway. `watch` it."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self.mean_s = 0.0
        """Replica-seconds of work."""

    async def watch(self) -> None:
        """Look every now and then. Ends when cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            self.look()

    def look(self) -> None:
        """Take in what waits now."""
        self.mean_s += GAIN * (sum(lane.backlog_s() for lane in self._models.lanes() if is_late(lane)) - self.mean_s)


def is_late(lane: Lane) -> bool:
    """What waits there does so because of this gateway: a replica has nothing to do."""
    return any(link.choosable and not link.flights for link in lane.dispatcher.links)
