"""More replicas, more gateways, the same two cores: W1 with 1, 2 and 4 replicas and with 1 and 2 gateways.

A cluster is started for each turn, in rounds whose order is turned round every time. More processes on as many cores
bring nothing by themselves; what is asked is that they take nothing away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import asking
import driving
from rich.progress import Progress

from headrace.cluster import Cluster
from headrace.config import Settings

SETUPS = ((1, 1), (2, 1), (4, 1), (1, 2))
"""(replicas, gateways)."""
CONCURRENCIES = (8, 32, 64)
ROUNDS = 3
SECONDS = 3.0
WARM_UP_S = 2.0

ClusterOf = Callable[[int, int], AbstractContextManager[Settings]]


async def measure(cluster_of: ClusterOf, rounds: int = ROUNDS, seconds: float = SECONDS) -> list[dict[str, Any]]:
    """Rows of workload W1 with `replicas` and `gateways`; `cluster_of(replicas, gateways)` gives their settings."""
    questions = await asyncio.to_thread(asking.w1_events)
    runs: list[dict[str, Any]] = []
    with Progress() as progress:
        for number, replicas, gateways in progress.track(list(turns(rounds)), description="scaling"):
            with cluster_of(replicas, gateways) as settings:
                async with Cluster(settings) as cluster:
                    await driving.closed_loop(cluster.address, questions, CONCURRENCIES[-1], WARM_UP_S)
                    for concurrency in CONCURRENCIES:
                        found = await driving.closed_loop(cluster.address, questions, concurrency, seconds)
                        named = {"workload": "W1", "system": "headrace", "tracing": True, "round": number}
                        setup = {"load": f"closed-{concurrency}", "replicas": replicas, "gateways": gateways}
                        runs.append({**named, **setup, **found})
    return runs


def turns(rounds: int) -> Iterator[tuple[int, int, int]]:
    """Round, replicas, gateways."""
    for number in range(rounds):
        for replicas, gateways in SETUPS if number % 2 == 0 else reversed(SETUPS):
            yield number, replicas, gateways
