"""How late the event loop wakes up: what its callers wait for when the process, not a replica, is the bottleneck."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from prometheus_client import Histogram

PERIOD_S: Final = 0.02


async def watch(lag: Histogram) -> None:
    """Sleep, and observe by how much too long. Ends when cancelled."""
    while True:
        due = time.perf_counter() + PERIOD_S
        await asyncio.sleep(PERIOD_S)
        lag.observe(max(0.0, time.perf_counter() - due))
