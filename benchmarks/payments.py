"""W4: fraud-tx on simulated payments with both histories as they come, closed loop, every answer checked."""

from __future__ import annotations

import asyncio
from typing import Any

import asking
import driving
from rich.console import Console
from rich.progress import Progress

from headrace.cluster import Cluster

CONCURRENCIES = (1, 8, 32, 64)
SECONDS = 5.0
COMMON = {"workload": "W4", "system": "headrace", "tracing": True}


async def measure(cluster: Cluster, seconds: float = SECONDS) -> list[dict[str, Any]]:
    questions = await asyncio.to_thread(asking.payments)
    runs = []
    with Progress(console=Console(stderr=True)) as progress:
        for concurrency in progress.track(CONCURRENCIES, description="W4"):
            found = await driving.closed_loop(cluster.address, questions, concurrency, seconds)
            runs.append({**COMMON, "load": f"closed-{concurrency}", **found})
    return runs
