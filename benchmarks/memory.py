"""The gateway's resident memory after 50,000 and after 100,000 requests in all: does it grow with what it answered?"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import generators
import machine
import workloads

from headrace.cluster import Cluster

REQUESTS = 100_000


async def measure(cluster: Cluster) -> dict[str, float]:
    gateway = cluster.gateways[0].pid
    assert gateway is not None
    return await asyncio.to_thread(over_requests, cluster.address, cluster.metrics_addresses[0], gateway)


def over_requests(address: str, metrics: str, gateway: int) -> dict[str, float]:
    w1, found = workloads.make("W1"), {}
    target = generators.Target(address, w1.model, metrics)
    with tempfile.TemporaryDirectory() as folder:
        questions = w1.write(Path(folder), padded=False).own
        for wanted in (REQUESTS // 2, REQUESTS):
            while (done := generators.answered(target)) < wanted:
                generators.own(target, questions, 64, min(20.0, max(2.0, (wanted - done) / 2500)))
            found[f"after_{wanted}_mib"] = machine.resident_mib(gateway)
    return found
