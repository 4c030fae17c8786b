"""More replicas, more gateways, the same two cores: W1 with 1, 2 and 4 replicas and with 1 and 2 gateways.

A cluster is started for each turn, in rounds whose order is turned round every time. More processes on as many cores
bring nothing by themselves; what is asked is that they take nothing away. Each turn is a process of its own, which
prints its rows: Ray forks, and a fork beside the gRPC threads of an earlier turn may hang.

    python benchmarks/scaling.py --engine ray --questions FILE.npz --replicas 2 --gateways 1
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asking
import clusters
import driving
import machine
from rich.console import Console
from rich.progress import Progress

from headrace.cluster import Cluster

MODEL = "w1-encoder"
SETUPS = ((1, 1), (2, 1), (4, 1), (1, 2))
"""(replicas, gateways)."""
CONCURRENCIES = (8, 32, 64)
ROUNDS = 2
SECONDS = 3.0
WARM_UP_S = 2.0
ALL_READY_S = 60.0


async def measure(engine: str, rounds: int = ROUNDS, seconds: float = SECONDS) -> list[dict[str, Any]]:
    """Rows of workload W1 with `replicas` and `gateways`."""
    questions = await asyncio.to_thread(asking.w1_events)
    runs: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True)) as progress:
        for number, replicas, gateways in progress.track(list(turns(rounds)), description="scaling"):
            options = {"engine": engine, "replicas": replicas, "gateways": gateways, "seconds": seconds}
            rows = await driving.printed(driving.script("scaling.py", questions=questions, **options))
            runs += [{**row, "round": number} for row in rows]
    return runs


def turns(rounds: int) -> Iterator[tuple[int, int, int]]:
    """Round, replicas, gateways."""
    for number in range(rounds):
        for replicas, gateways in SETUPS if number % 2 == 0 else reversed(SETUPS):
            yield number, replicas, gateways


async def turn(options: argparse.Namespace) -> list[dict[str, Any]]:
    setup = {"replicas": options.replicas, "gateways": options.gateways}
    runs = []
    with clusters.settings(options.engine, MODEL, **setup) as settings:
        async with Cluster(settings) as cluster:
            await all_ready(cluster, options.replicas)
            await driving.closed_loop(cluster.address, options.questions, CONCURRENCIES[-1], WARM_UP_S)
            for concurrency in CONCURRENCIES:
                found = await driving.closed_loop(cluster.address, options.questions, concurrency, options.seconds)
                named = {"workload": "W1", "system": "headrace", "tracing": True, "load": f"closed-{concurrency}"}
                runs.append({**named, **setup, **found})
    return runs


async def all_ready(cluster: Cluster, replicas: int) -> None:
    """A cluster is ready with its first replica; one that still loads would take the others' cores.

    Raises: TimeoutError.
    """
    async with asyncio.timeout(ALL_READY_S):
        while sum(name.startswith("replica-") for name in await machine.processes(cluster)) < replicas:  # noqa: ASYNC110
            await asyncio.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="ray", choices=["ray", "local"])
    parser.add_argument("--questions", type=Path, required=True, help="as `serialised.py` writes them")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--gateways", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    json.dump(asyncio.run(turn(parser.parse_args())), sys.stdout)


if __name__ == "__main__":
    main()
