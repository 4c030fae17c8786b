"""What tracing costs: two gateways before the same replica, one traces every inference and one nothing, loaded in turn.

And, apart from everything else, microseconds a request (`span_cost.py`).
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import generators
import machine
import numpy as np
import span_cost
import workloads

from headrace import top
from headrace.children import Child
from headrace.cluster import Cluster

CONCURRENCY = 64
PAIRS = 8
PAIR_SECONDS = 4.0


@dataclass(frozen=True)
class Arm:
    """One of two gateways before the same replicas."""

    target: generators.Target
    pid: int


async def measure(cluster: Cluster) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        questions = workloads.make("W1").write(Path(folder), padded=False).own
        async with both(cluster) as arms:
            pairs = await asyncio.to_thread(load_in_turn, arms, questions)
    alone = await asyncio.to_thread(span_cost.measure)
    median = {name: paired(pairs, name) for name in ("rps", "p99_ms", "lag_p99_ms")}
    return {"us_per_request": alone, "pairs": pairs, "median": median}


@asynccontextmanager
async def both(cluster: Cluster) -> AsyncIterator[dict[str, Arm]]:
    """The cluster's own gateway, and a second one without tracing."""
    port, metrics_port = machine.free_port(), machine.free_port()
    environment = {
        **os.environ,
        "OTEL_SDK_DISABLED": "true",
        "HEADRACE_GATEWAY__PORT": str(port),
        "HEADRACE_GATEWAY__METRICS_PORT": str(metrics_port),
    }
    command = ["gateway", "--config", str(cluster.config_file), "--control", cluster.control_address]
    silent = Child("gateway-without-tracing", command, environment=environment)
    await silent.start()
    try:
        await asyncio.sleep(3)
        yield {
            "on": arm(cluster.address, cluster.metrics_addresses[0], cluster.gateways[0].pid),
            "off": arm(f"127.0.0.1:{port}", f"127.0.0.1:{metrics_port}", silent.pid),
        }
    finally:
        await silent.stop()


def arm(address: str, metrics: str, pid: int | None) -> Arm:
    assert pid is not None
    return Arm(generators.Target(address, workloads.MODELS["W1"], metrics), pid)


def load_in_turn(arms: dict[str, Arm], questions: Path) -> list[dict[str, dict[str, float]]]:
    """Pairs of runs, in turn first."""
    for each in arms.values():  # both warm
        generators.own(each.target, questions, CONCURRENCY, 2.0)
    orders = (("off", "on"), ("on", "off"))
    return [{name: load(arms[name], questions) for name in orders[number % 2]} for number in range(PAIRS)]


def load(one: Arm, questions: Path) -> dict[str, float]:
    """One run, with what it cost the gateway and how late its loop woke up."""
    assert one.target.metrics is not None
    before, cpu_s = generators.read_metrics(one.target.metrics), machine.cpu_seconds(one.pid)
    count = generators.answered(one.target)
    found = generators.own(one.target, questions, CONCURRENCY, PAIR_SECONDS)
    spent_us = (machine.cpu_seconds(one.pid) - cpu_s) * 1e6 / max(1, generators.answered(one.target) - count)
    lag_ms = lag_p99_ms(before, generators.read_metrics(one.target.metrics))
    return {**found, "gateway_cpu_us": round(spent_us, 1), "lag_p99_ms": round(lag_ms, 3)}


def paired(pairs: list[dict[str, dict[str, float]]], name: str) -> dict[str, float]:
    """The median and the spread of on/off, and of on − off."""
    ratios = [pair["on"][name] / pair["off"][name] for pair in pairs]
    differences = [pair["on"][name] - pair["off"][name] for pair in pairs]
    return {
        "ratio": round(float(np.median(ratios)), 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
        "difference": round(float(np.median(differences)), 3),
    }


def lag_p99_ms(before: list[str], now: list[str]) -> float:
    """How late the event loop woke up, at p99, between two looks at the metrics."""
    looks = []
    for lines in (before, now):
        mine = [line for line in lines if line.startswith("headrace_event_loop_lag_seconds_bucket")]
        looks.append({float(line.split('"')[1]): float(line.split()[-1]) for line in mine})
    return top.quantile_ms(0.99, *looks) or 0.0
