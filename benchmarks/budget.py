"""The budget: where a request's microseconds go, from the project's own spans and from the processors' time.

W1 at concurrency 1 and 64, closed loop. The gateway's spans hold the replica's stamps too, so a request's time divides
without a gap: each stage is the median over the requests of a run. Beside it, what a request costs each process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import asking
import driving
import generators
import machine

from headrace.cluster import Cluster
from headrace.telemetry import reading
from headrace.telemetry.reading import StoredSpan, Trace

CONCURRENCIES = (1, 64)
SECONDS = 5.0
WARM_UP_S = 1.0
FLUSHED_S = 1.0
"""After so long the tracer has written all it was given."""
EVERY_ONE = 1_000_000


async def measure(cluster: Cluster, seconds: float = SECONDS) -> dict[str, Any]:
    """Load → its figures."""
    questions = await asyncio.to_thread(asking.w1_events)
    await driving.closed_loop(cluster.address, questions, CONCURRENCIES[-1], WARM_UP_S)
    return {f"closed-{each}": await run(cluster, questions, each, seconds) for each in CONCURRENCIES}


async def run(cluster: Cluster, questions: Path, concurrency: int, seconds: float) -> dict[str, Any]:
    target = generators.Target(cluster.address, "w1-encoder", cluster.metrics_addresses[0])
    pids = await machine.processes(cluster)
    begun_ns, before, count = time.time_ns(), spent(pids), generators.answered(target)
    found = await driving.closed_loop(cluster.address, questions, concurrency, seconds)
    after, count = spent(pids), generators.answered(target) - count
    await asyncio.sleep(FLUSHED_S)
    traces = await asyncio.to_thread(since, cluster.settings.telemetry.trace_dir, begun_ns)
    cpu_us = {name: round((after[name] - before[name]) * 1e6 / max(1, count), 1) for name in after}
    return {
        "rps": found["rps"],
        "p50_ms": found["p50_ms"],
        "requests": count,
        "traces": len(traces),
        "stages_us": medians([stages_us(trace) for trace in traces]),
        "rows_per_batch": median(batch_size(trace) for trace in traces) if traces else None,
        "cpu_us": {**cpu_us, "generator": found["cpu_us_per_request"]},
    }


def spent(pids: Mapping[str, int]) -> dict[str, float]:
    """Processor seconds so far: the gateway's event loop is its main thread; gRPC's and the tracer's are others."""
    gateways = [pid for name, pid in pids.items() if name.startswith("gateway")]
    loops_s = sum(machine.cpu_seconds(f"{pid}/task/{pid}") for pid in gateways)
    return {
        "gateway's loop": loops_s,
        "gateway's other threads": sum(machine.cpu_seconds(pid) for pid in gateways) - loops_s,
        "replica": sum(machine.cpu_seconds(pid) for name, pid in pids.items() if name.startswith("replica")),
    }


def since(folder: Path, begun_ns: int) -> list[Trace]:
    """The requests begun since then that reached a forward pass, as many as the newest files hold."""
    found = reading.slowest(folder, EVERY_ONE)
    return [trace for trace in found if trace.complete and trace.rpc.start_ns >= begun_ns]


def stages_us(trace: Trace) -> dict[str, float]:
    """How one request's time divides, in the order in which it passes."""
    own, batch = by_name(trace.own), by_name(trace.batch)
    rpc, queue, dispatch, replica = trace.rpc, own["queue"], batch["dispatch"], batch["replica.batch"]
    there_and_back_ns = dispatch.end_ns - dispatch.start_ns - (replica.end_ns - replica.start_ns)
    ns = {
        "decode, admit": queue.start_ns - rpc.start_ns,
        "queue": queue.end_ns - queue.start_ns,
        "pack": dispatch.start_ns - queue.end_ns,
        "send, wire, receive": there_and_back_ns,
        "replica: wait": batch["unpack"].start_ns - replica.start_ns,
        **{
            f"replica: {name}": batch[name].end_ns - batch[name].start_ns
            for name in ("unpack", "h2d", "forward", "d2h")
        },
        "replica: pack": replica.end_ns - batch["d2h"].end_ns,
        "settle, encode": rpc.end_ns - dispatch.end_ns,
        "rpc": rpc.end_ns - rpc.start_ns,
    }
    return {name: value / 1000 for name, value in ns.items()}


def by_name(spans: Sequence[StoredSpan]) -> dict[str, StoredSpan]:
    """The last of each name: of two attempts the one that was answered."""
    return {span.name: span for span in spans}


def batch_size(trace: Trace) -> int:
    return int(by_name(trace.batch)["batch"].attributes["headrace.batch.size"])


def medians(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each stage's own median: they need not add up to the whole one's."""
    return {name: round(median(each[name] for each in found), 1) for name in found[0]} if found else {}
