"""`make soak FAULTS=1`: fraud-tx at 80 % of capacity for minutes, with random faults; no payment may be lost.

    python benchmarks/soak_faults.py --minutes 30 [--seed 1] [--engine ray]

Two gateways on one port, two replicas, control, a collector. `capacity.py` finds what they take; `persistent.py` asks
at 0.8 of that, in runs of half a minute, and checks every answer; `mischief.py` breaks one thing after the other.
Writes build/bench/soak.json and docs/images/soak.png. Ends with 1 where a payment got no answer, or a wrong one, an
attempt got neither answer nor status in time, or memory or latency grew by more than its bar.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import asking
import capacity
import driving
import machine
import numpy as np
import soak_picture
from mischief import Collector, Fault, Mischief
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from headrace import config
from headrace.cluster import Cluster

OUT = Path("build/bench")
PICTURE = Path("docs/images/soak.png")
SHARE = 0.8
REPLICAS = 2
RUN_S = 30.0
REST_S = 3.0
PACE_S = 0.25
EVERY_S = 2.0
WARM_UP_S = 60.0
"""Of each process: what it holds before does not count."""
CONNECTION_AGE_S = 20.0
"""Callers come back to a gateway that was restarted because they are told to connect anew."""
MEMORY_BAR_PERCENT = 5.0
LATENCY_BAR_PERCENT = 25.0
LOST = ("wrong", "given_up", "lost_attempts")

Sample = tuple[float, int, float]
"""When (seconds from the start), whose (a process id), and its resident memory, MiB."""


@dataclass
class Seen:
    """What has been seen so far."""

    capacity_rps: float = 0.0
    closed_rps: list[float] = field(default_factory=list)
    """What the cluster gets through in a closed loop before it all, and after."""
    paces: list[tuple[float, float]] = field(default_factory=list)
    """The machine's own, and when (seconds from the start): between two runs, while nobody asks anything."""
    samples: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    spent: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    """Processor seconds in place of MiB."""
    counts: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    seconds: list[dict[str, Any]] = field(default_factory=list)
    slowest_ms: float = 0.0
    late_ms: float = 0.0
    """By how much the load generator itself was late at most."""
    faults: list[Fault] = field(default_factory=list)
    collected_bytes: int = 0


async def soak(options: argparse.Namespace, folder: Path) -> Seen:
    questions = await asyncio.to_thread(asking.payments_of_64)
    collector = Collector(machine.free_port())
    seen, seconds = Seen(), options.minutes * 60
    async with Cluster(settings(options.engine, folder, collector.endpoint)) as cluster:
        collector.there()  # only now: Ray forks, and nobody may have used gRPC in this process before
        await _closed_loop(cluster, questions, seen)
        seen.capacity_rps = (await capacity.find(cluster.address, questions)).capacity_rps
        mischief = Mischief(cluster, collector, questions, options.seed, REPLICAS)
        sampling = asyncio.create_task(_sample(cluster, mischief, seen))
        try:
            async with mischief.running():
                await _load(cluster, questions, seen, seconds)
            await _closed_loop(cluster, questions, seen)
        finally:
            sampling.cancel()
            await asyncio.wait({sampling})
            collector.away()
    seen.faults, seen.collected_bytes = mischief.done, collector.bytes
    return seen


async def _closed_loop(cluster: Cluster, questions: Path, seen: Seen) -> None:
    """How fast the cluster is while nothing breaks."""
    await asyncio.sleep(REST_S)
    closed = await driving.closed_loop(cluster.address, questions, capacity.CONCURRENCY, capacity.CLOSED_S)
    seen.closed_rps.append(closed["rps"])


def settings(engine: str, folder: Path, endpoint: str) -> config.Settings:
    return config.load(
        None,
        {},
        engine=engine,
        only=["fraud-tx"],
        models={"fraud-tx": {"replicas": REPLICAS}},
        gateway__port=0,
        gateway__metrics_port=0,
        gateway__processes=2,
        gateway__max_connection_age_s=CONNECTION_AGE_S,
        control__port=0,
        control__ledger=folder / "ledger.db",
        telemetry__trace_dir=folder / "traces",
        telemetry__otlp_endpoint=endpoint,
        telemetry__log_level="ERROR",
    )


async def _load(cluster: Cluster, questions: Path, seen: Seen, seconds: float) -> None:
    """Run after run until the time is up; each waits for its last payment."""
    begun = time.monotonic()
    with Progress() as progress:
        task = progress.add_task("soak", total=seconds)
        for number in range(1_000_000):
            at_s = time.monotonic() - begun
            if seconds - at_s < 1:
                return
            seen.paces.append((at_s, await asyncio.to_thread(machine.pace, PACE_S)))
            found = await driving.printed(
                driving.script(
                    "persistent.py",
                    address=cluster.address,
                    questions=questions,
                    rate=SHARE * seen.capacity_rps,
                    seconds=min(RUN_S, seconds - at_s),
                    seed=number,
                )
            )
            _take_in(seen, found, at_s)
            progress.update(task, completed=time.monotonic() - begun)


def _take_in(seen: Seen, found: Mapping[str, Any], at_s: float) -> None:
    seen.counts.update({name: found[name] for name in ("payments", "right", "asked_again", *LOST)})
    seen.told.update(found["told"])
    seen.late_ms = max(seen.late_ms, found["late_ms"])
    seen.slowest_ms = max(seen.slowest_ms, found["slowest_ms"] or 0.0)
    seen.seconds += [{"at_s": at_s + place, **second} for place, second in enumerate(found["by_second"])]


async def _sample(cluster: Cluster, mischief: Mischief, seen: Seen) -> None:
    begun = time.monotonic()
    while True:
        for name, pids in (await _processes(cluster, mischief)).items():
            for pid in pids:
                with contextlib.suppress(OSError):  # it has just ended
                    at_s = time.monotonic() - begun
                    seen.samples[name].append((at_s, pid, machine.resident_mib(pid)))
                    seen.spent[name].append((at_s, pid, machine.cpu_seconds(pid)))
        await asyncio.sleep(EVERY_S)


async def _processes(cluster: Cluster, mischief: Mischief) -> dict[str, set[int]]:
    """Name → process ids, of all that run; Ray's own are those below this process that are nothing else."""
    replicas = await mischief.replicas()
    found = {child.name: {child.pid} - {None} for child in (cluster.control, *cluster.gateways)}
    found["replicas"] = {*replicas}
    everything = set(await asyncio.to_thread(machine.family, os.getpid())) - {os.getpid()}
    known = {pid for pids in found.values() for pid in pids}
    found["Ray and Serve"] = {pid for pid in everything - known if _is_of_ray(pid)}
    return {name: {pid for pid in pids if pid is not None} for name, pids in found.items()}


def _is_of_ray(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"ServeController" in command or b"raylet" in command or b"gcs_server" in command


def memory(samples: Sequence[Sample], warm_up_s: float) -> dict[str, float] | None:
    """Of one kind of process, over all its lives that outlast the warm-up; None = there was none.

    `slope_mib_per_hour`: one line's slope, each life with a level of its own. `growth_percent`: that slope over the
    time seen, of the mean level.
    """
    lives: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for at_s, pid, mib in samples:
        lives[pid].append((at_s, mib))
    kept = [[one for one in life if one[0] >= life[0][0] + warm_up_s] for life in lives.values()]
    points = [np.array(life) for life in kept if len(life) >= 5]
    if not points:
        return None
    at_s = np.concatenate([life[:, 0] - life[:, 0].mean() for life in points])
    mib = np.concatenate([life[:, 1] - life[:, 1].mean() for life in points])
    slope = float((at_s * mib).sum() / (at_s**2).sum())
    level = float(np.concatenate([life[:, 1] for life in points]).mean())
    longest_s = max(float(life[-1, 0] - life[0, 0]) for life in points)
    return {
        "lives": len(lives),
        "mean_mib": round(level, 1),
        "slope_mib_per_hour": round(slope * 3600, 2),
        "growth_percent": round(slope * longest_s / level * 100, 2),
    }


def change(values: Sequence[float | None]) -> dict[str, float]:
    """Medians of the first and of the last quarter, and the change in percent."""
    kept = [value for value in values if value is not None]
    quarter = max(1, len(kept) // 4)
    first, last = float(np.median(kept[:quarter])), float(np.median(kept[-quarter:]))
    return {
        "first": round(first, 2),
        "last": round(last, 2),
        "change_percent": round((last / first - 1) * 100, 1),
    }


def verdict(seen: Seen, warm_up_s: float) -> dict[str, Any]:
    """What is written, and `passed`."""
    grown = {name: found for name, samples in seen.samples.items() if (found := memory(samples, warm_up_s)) is not None}
    ranks = {rank: change([second[rank] for second in seen.seconds]) for rank in ("p50_ms", "p99_ms")}
    answered = seen.counts["right"] == seen.counts["payments"] > 0
    flat = all(found["growth_percent"] <= MEMORY_BAR_PERCENT for found in grown.values())
    steady = ranks["p50_ms"]["change_percent"] <= LATENCY_BAR_PERCENT
    return {
        "hardware": machine.hardware(),
        "capacity_rps": round(seen.capacity_rps, 1),
        "closed_rps": [round(rps, 1) for rps in seen.closed_rps],
        "machine_mib_per_s": change([pace for _, pace in seen.paces]),
        "offered_rps": round(SHARE * seen.capacity_rps, 1),
        "counts": dict(seen.counts),
        "told": dict(seen.told.most_common(12)),
        "slowest_ms": seen.slowest_ms,
        "generator_late_ms": seen.late_ms,
        "latency": ranks,
        "memory": grown,
        "memory_bar_percent": MEMORY_BAR_PERCENT,
        "latency_bar_percent": LATENCY_BAR_PERCENT,
        "faults": [asdict(fault) for fault in seen.faults],
        "collected_mib": round(seen.collected_bytes / 2**20, 1),
        "answered": answered,
        "memory_flat": flat,
        "latency_flat": steady,
        "passed": answered and flat and steady and not any(seen.counts[name] for name in LOST),
        "seconds": seen.seconds,
        "samples": dict(seen.samples),
        "spent": dict(seen.spent),
        "paces": seen.paces,
    }


def show(found: Mapping[str, Any]) -> None:
    table = Table("process", "lives", "mean, MiB", "slope, MiB/h", "growth", title="resident memory")
    for name, one in found["memory"].items():
        growth = f"{one['growth_percent']:+.2f} %"
        table.add_row(
            name, f"{one['lives']:.0f}", f"{one['mean_mib']:.1f}", f"{one['slope_mib_per_hour']:+.1f}", growth
        )
    faults = Table("fault", "times", "whole after, s", title="faults")
    for name in sorted({fault["name"] for fault in found["faults"]}):
        took = [fault["whole_after_s"] for fault in found["faults"] if fault["name"] == name]
        faults.add_row(name, str(len(took)), f"{np.median(took):.1f} ({max(took):.1f} at most)")
    console = Console()
    console.print(table, faults)
    console.print(f"capacity {found['capacity_rps']:,.0f}/s, offered {found['offered_rps']:,.0f}/s")
    console.print("closed loop before and after, a second:", found["closed_rps"])
    console.print("quarters:", {**found["latency"], "machine, MiB hashed a second": found["machine_mib_per_s"]})
    console.print(found["counts"], found["told"])
    console.print(
        f"slowest {found['slowest_ms'] / 1e3:.2f} s, generator late by {found['generator_late_ms'] / 1e3:.2f} s at most"
    )
    said = "[green]passed[/]" if found["passed"] else "[red]missed[/]"
    console.print(f"every payment answered rightly, memory and latency flat: {said}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", default="ray", choices=["ray", "local"])
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="headrace-soak-") as folder:
        seen = asyncio.run(soak(options, Path(folder)))
    found = verdict(seen, min(WARM_UP_S, options.minutes * 60 / 6))
    (OUT / "soak.json").write_text(json.dumps(found, indent=1))
    soak_picture.draw(PICTURE, found)
    show(found)
    raise SystemExit(not found["passed"])


if __name__ == "__main__":
    main()
