"""W3: fraud-tx on payments with 64 events of their card, under up to three times what it takes; deadlines of 50 ms.

Poisson arrivals at multiples of the capacity, in a fixed shuffled order; and how fast the gateway can say no.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import asking
import capacity
import driving
import machine
from rich.console import Console
from rich.progress import Progress

from headrace.cluster import Cluster

FACTORS = (0.5, 1.0, 1.5, 2.0, 3.0)
ROUNDS = 2
SECONDS = 8.0
REFUSING_S = 4.0
COMMON = {"workload": "W3", "system": "headrace", "tracing": True}


async def measure(cluster: Cluster, seconds: float = SECONDS, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """About four minutes with the defaults. `rps` is goodput: right, and within 50 ms of the intended arrival."""
    questions = await asyncio.to_thread(asking.payments_of_64)
    limits = await capacity.find(cluster.address, questions)
    runs: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True)) as progress:
        for number, factor in progress.track(order(rounds), description="W3"):
            rate, seed = factor * limits.capacity_rps, 100 + len(runs)
            found = await driving.open_loop(
                cluster.address, questions, rate, seconds, deadline_ms=capacity.DEADLINE_MS, seed=seed
            )
            runs.append({**COMMON, "load": f"poisson-{factor}x", "round": number, **found, **limits.figures()})
    return [*runs, {**COMMON, **await refuse_only(cluster, questions), **limits.figures()}]


def order(rounds: int) -> list[tuple[int, float]]:
    """Round and factor of each run: shuffled, so that what the machine does over time is no factor's, and fixed."""
    shuffled = random.Random(3)
    return [(number, factor) for number in range(rounds) for factor in shuffled.sample(FACTORS, len(FACTORS))]


async def refuse_only(cluster: Cluster, questions: Path) -> dict[str, Any]:
    """Refusals a second, closed loop, and the gateways' microseconds for each: they bound what overload costs."""
    refused = await asyncio.to_thread(asking.refusable, questions, questions.with_name("w3-refused.npz"))
    before = machine.gateways_cpu_seconds(cluster)
    found = await driving.closed_loop(cluster.address, refused, capacity.CONCURRENCY, REFUSING_S)
    spent_s = machine.gateways_cpu_seconds(cluster) - before
    # The gateway worked through the generator's warm-up of a second too.
    refusals = found["refused"] * (REFUSING_S + 1) / REFUSING_S
    return {
        "load": f"refused-{capacity.CONCURRENCY}",
        **found,
        "refuse_rps": round(found["refused"] / REFUSING_S, 1),
        "gateway_cpu_us_per_refusal": round(spent_s * 1e6 / max(1.0, refusals), 1),
    }
