"""`make soak`: fraud-tx at full load for minutes; what the gateway holds must not grow. Writes build/bench/soak.json.

    python benchmarks/soak.py --minutes 10 [--engine ray]

Closed loop at concurrency 64, in runs of half a minute (their answers are kept until they are checked), every answer
compared. The resident memory of each process is read every 10 s; the first minute is warm-up. Ends with 1 where the
gateway's median of the last quarter is more than 3 % away from that of the first, or where an answer was not right.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asking
import driving
import machine
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from headrace import config
from headrace.cluster import Cluster

OUT = Path("build/bench")
CONCURRENCY = 64
RUN_S = 30.0
EVERY_S = 10.0
WARM_UP_S = 60.0
BAR_PERCENT = 3.0
FAILURES = ("wrong", "errors", "lost", "warm_up_failed")

Samples = Mapping[str, Sequence[tuple[float, float]]]
"""Process → when (seconds from the start) and its resident memory (MiB)."""


@dataclass
class Soak:
    """What has been seen so far."""

    samples: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    rps: list[float] = field(default_factory=list)


async def soak(options: argparse.Namespace) -> Soak:
    questions = await asyncio.to_thread(asking.payments_of_64)
    seen, seconds = Soak(), options.minutes * 60
    async with Cluster(settings(options.engine)) as cluster:
        pids = await machine.processes(cluster)
        sampling = asyncio.create_task(_sample(pids, seen, seconds))
        try:
            await _load(cluster, questions, seen, seconds)
            await sampling
        finally:
            sampling.cancel()
    return seen


def settings(engine: str) -> config.Settings:
    return config.load(
        None,
        {},
        engine=engine,
        only=["fraud-tx"],
        gateway__port=0,
        gateway__metrics_port=0,
        control__port=0,
        control__ledger=":memory:",
        telemetry__trace_dir=OUT / "traces",
        telemetry__log_level="ERROR",
    )


async def _load(cluster: Cluster, questions: Path, seen: Soak, seconds: float) -> None:
    """Run after run until the time is up."""
    begun = time.monotonic()
    with Progress() as progress:
        task = progress.add_task("soak", total=seconds)
        while (left_s := begun + seconds - time.monotonic()) > 0:
            found = await driving.closed_loop(cluster.address, questions, CONCURRENCY, max(1.0, min(RUN_S, left_s)))
            seen.rps.append(found["rps"])
            seen.counts.update({name: found[name] for name in ("right", *FAILURES)})
            progress.update(task, completed=time.monotonic() - begun)


async def _sample(pids: Mapping[str, int], seen: Soak, seconds: float) -> None:
    """Raises: OSError when a process is gone: a restart would hide what it held."""
    begun = time.monotonic()
    while (now := time.monotonic() - begun) < seconds:
        for name, pid in pids.items():
            seen.samples.setdefault(name, []).append((now, machine.resident_mib(pid)))
        await asyncio.sleep(EVERY_S)


def growth(samples: Sequence[tuple[float, float]], warm_up_s: float) -> dict[str, float]:
    """Medians of the first and of the last quarter of the time after the warm-up, MiB, and the change in percent."""
    kept = [(at, mib) for at, mib in samples if at >= warm_up_s] or list(samples)
    begin, end = kept[0][0], kept[-1][0]
    quarter_s = (end - begin) / 4
    first = float(np.median([mib for at, mib in kept if at <= begin + quarter_s]))
    last = float(np.median([mib for at, mib in kept if at >= end - quarter_s]))
    return {"first_mib": first, "last_mib": last, "growth_percent": round((last / first - 1) * 100, 2)}


def verdict(seen: Soak, warm_up_s: float) -> dict[str, Any]:
    """What is written, and `passed`."""
    grown = {name: growth(samples, warm_up_s) for name, samples in seen.samples.items()}
    gateways = [figures["growth_percent"] for name, figures in grown.items() if name.startswith("gateway")]
    steady = all(abs(percent) <= BAR_PERCENT for percent in gateways)
    faultless = seen.counts["right"] > 0 and not any(seen.counts[name] for name in FAILURES)
    return {
        "memory": grown,
        "counts": dict(seen.counts),
        "rps": seen.rps,
        "bar_percent": BAR_PERCENT,
        "passed": steady and faultless,
        "samples": seen.samples,
    }


def show(found: Mapping[str, Any]) -> None:
    table = Table("process", "first quarter, MiB", "last quarter, MiB", "growth", title="resident memory, medians")
    for name, figures in found["memory"].items():
        cells = (f"{figures['first_mib']:.1f}", f"{figures['last_mib']:.1f}", f"{figures['growth_percent']:+.2f} %")
        table.add_row(name, *cells)
    console = Console()
    console.print(table)
    console.print(found["counts"], f"median {np.median(found['rps']):,.0f}/s")
    said = "[green]passed[/]" if found["passed"] else "[red]missed[/]"
    console.print(f"the gateway within ± {BAR_PERCENT:g} %, and every answer right: {said}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--engine", default="ray", choices=["ray", "local"])
    options = parser.parse_args()
    found = verdict(asyncio.run(soak(options)), min(WARM_UP_S, options.minutes * 60 / 4))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "soak.json").write_text(json.dumps(found, indent=1))
    show(found)
    raise SystemExit(not found["passed"])


if __name__ == "__main__":
    main()
