"""What a shadow costs the payments beside it: a hostile challenger at 40 % of capacity, a healthy one at 120 %.

    python benchmarks/isolation.py [--rounds 12] [--kinds hang crash …] [--processors 0.25] [--noise-share 0.1]

fraud-tx, open loop, one primary replica, deadlines of 50 ms, everything traced. The challenger is a replica of its own
with all requests copied to it (share 1), niced and limited in memory as a shadow should be on a machine it shares;
with --processors also in the processor, as a pod's limit does it (root alone may). A tenth of the requests are asked
of the primary again: the noise floor, as by default.
Rounds alternate without and with the experiment while both processes live; ratios are of a round's two halves. Many
short rounds rather than a few long ones: a machine that others share changes its pace within a minute, and the median
of five rounds of 10 s moved by a quarter from run to run.
Writes build/bench/isolation.json and prints the table of docs/experiments.md: medians, in brackets the rounds' middle
half.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asking
import capacity
import clusters
import driving
import hostile
import machine
import numpy as np
from grpc import aio
from processor_limit import limited
from rich.console import Console
from rich.table import Table

from headrace.cluster import Cluster
from headrace.experiments.plan import NOISE_SHARE
from headrace.tasks import end
from headrace.v1 import control_pb2, control_pb2_grpc, experiments_pb2, experiments_pb2_grpc

OUT = Path("build/bench")
MODEL = "fraud-tx"
ROUNDS = 12
SECONDS = 5.0
WARM_UP_S = 2.0
"""Under the same load, before what counts: the challenger turns hostile in it."""
SETTLE_S = 1.5
"""After a change of policy: gateways follow within one."""
MODERATE, OVERLOAD = 0.4, 1.2
MEMORY_BYTES = 2 * 2**30
"""Of a challenger's data, its share of torch included."""
RESTART_S = 1.0
READY_S = 120.0
COUNTED = ("sampled", "pairs", "errors")
BARS = {MODERATE: (0.97, 1.15), OVERLOAD: (0.95, None)}
"""Goodput at least, p99 at most, both as ratios to the primary alone."""


class Challenger:
    """A replica process that gets what processor time is left, limited in memory, and started again when it dies."""

    def __init__(self, directory: Path, cluster: Cluster, held: Sequence[str]) -> None:
        limits = [*held, "chrt", "--idle", "0", "nice", "-n", "19", "prlimit", f"--data={MEMORY_BYTES}"]
        replica = [sys.executable, "-m", "headrace", "replica", "--model-dir", str(directory)]
        self._command = [*limits, *replica, "--control", cluster.control_address, "--config", str(cluster.config_file)]
        self._process: asyncio.subprocess.Process | None = None
        self.deaths = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        keeping = asyncio.create_task(self._keep(), name="challenger")
        try:
            yield
        finally:
            await end(keeping)
            if self._process is not None and self._process.returncode is None:
                self._process.kill()
                await self._process.wait()

    async def _keep(self) -> None:
        while True:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
            )
            await self._process.wait()
            self.deaths += 1
            await asyncio.sleep(RESTART_S)


class Experiments:
    """Turns the comparison on and off, the way anybody does."""

    def __init__(self, channel: aio.Channel, gates: experiments_pb2.Gates, noise_share: float) -> None:
        self._stub = experiments_pb2_grpc.ExperimentServiceStub(channel)
        self._control = control_pb2_grpc.ControlStub(channel)
        self._plan = experiments_pb2.Plan(share=1.0, noise_share=noise_share, gates=gates)

    async def wait_ready(self) -> None:
        """Until the challenger has registered as ready."""
        async with asyncio.timeout(READY_S):
            while True:
                snapshot = await self._control.Describe(control_pb2.DescribeRequest())
                if any(r.spec.version == "2" and r.state == control_pb2.REPLICA_STATE_READY for r in snapshot.replicas):
                    return
                await asyncio.sleep(0.2)

    async def begin(self, name: str) -> None:
        await self.wait_ready()
        await self._stub.CreateExperiment(
            experiments_pb2.CreateExperimentRequest(
                id=name, model=MODEL, incumbent="1", challenger="2", plan=self._plan, start=True, why="isolation"
            )
        )
        await asyncio.sleep(SETTLE_S)

    async def end(self, name: str) -> experiments_pb2.Figures:
        await asyncio.sleep(SETTLE_S)
        report = await self._stub.GetReport(experiments_pb2.GetReportRequest(id=name))
        await self._stub.Rollback(experiments_pb2.RollbackRequest(id=name, why="measured"))
        await asyncio.sleep(SETTLE_S)
        figures: experiments_pb2.Figures = report.report.figures
        return figures


@dataclass(frozen=True)
class Bench:
    """A cluster under measurement, and what it takes."""

    cluster: Cluster
    experiments: Experiments
    questions: Path
    capacity_rps: float

    async def kind(self, kind: str, rounds: int, held: Sequence[str]) -> dict[str, Any]:
        """Every round with one challenger, which lives as long."""
        challenger = Challenger(hostile.write(OUT / "hostile", kind), self.cluster, held)
        factor = OVERLOAD if kind == hostile.HEALTHY else MODERATE
        seen: Counter[str] = Counter()
        drops: Counter[str] = Counter()
        async with challenger.running():
            found = [await self._round(kind, factor, number, seen, drops) for number in range(rounds)]
        about = {"kind": kind, "factor": factor, "capacity_rps": self.capacity_rps, "deaths": challenger.deaths}
        return {**about, "rounds": found, **{name: seen[name] for name in COUNTED}, "drops": drops}

    async def _round(
        self, kind: str, factor: float, number: int, seen: Counter[str], drops: Counter[str]
    ) -> dict[str, Any]:
        """Both halves, in turns the one and the other first."""
        halves = {}
        for way in ("alone", "shadowed") if number % 2 else ("shadowed", "alone"):
            if way == "alone":
                halves[way] = await self._half(factor, number)
                continue
            name = f"{kind}-{number}"
            await self.experiments.begin(name)
            halves[way] = await self._half(factor, number)
            figures = await self.experiments.end(name)
            seen.update(sampled=figures.sampled, pairs=figures.pairs, errors=figures.challenger_errors.events)
            drops.update(figures.drops)
        return halves

    async def _half(self, factor: float, seed: int) -> dict[str, Any]:
        before = await spent(self.cluster)
        found = await driving.open_loop(
            self.cluster.address,
            self.questions,
            factor * self.capacity_rps,
            SECONDS,
            warm_up=WARM_UP_S,
            deadline_ms=capacity.DEADLINE_MS,
            seed=seed,
        )
        after = await spent(self.cluster)
        return {**found, "cpu_s": {name: round(after[name] - before.get(name, 0.0), 2) for name in after}}


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    questions = await asyncio.to_thread(asking.payments_of_64)
    with clusters.settings("local", MODEL) as settings:
        async with Cluster(settings) as cluster, aio.insecure_channel(cluster.control_address) as channel:
            rate = (await capacity.find(cluster.address, questions)).capacity_rps
            # A breach would end the experiment that is being measured: here it may go on.
            experiments = Experiments(channel, experiments_pb2.Gates(min_coverage=0.0), options.noise_share)
            bench, results = Bench(cluster, experiments, questions, rate), []
            with limited(options.processors) if options.processors else contextlib.nullcontext(()) as held:
                for kind in options.kinds:
                    results.append(await bench.kind(kind, options.rounds, held))
                    (OUT / "isolation.json").write_text(json.dumps(results, indent=1))
            return results


async def spent(cluster: Cluster) -> dict[str, float]:
    """Processor seconds so far of control, the gateway and every replica that lives."""
    found = {}
    for name, pid in (await machine.processes(cluster)).items():
        with contextlib.suppress(OSError):  # a challenger that has just died is still listed
            found[name] = machine.cpu_seconds(pid)
    return found


def ratios(found: Mapping[str, Any], figure: str) -> list[float]:
    """With the shadow over alone, round by round."""
    return [each["shadowed"][figure] / each["alone"][figure] for each in found["rounds"]]


def faults(found: Mapping[str, Any]) -> int:
    """Payments that got a wrong answer, an error or none while the shadow was there."""
    return sum(each["shadowed"][name] for each in found["rounds"] for name in ("wrong", "errors", "lost"))


def met(found: Mapping[str, Any]) -> bool:
    goodput, p99 = BARS[found["factor"]]
    late = p99 is not None and np.median(ratios(found, "p99_ms")) > p99
    return not (faults(found) or late or np.median(ratios(found, "goodput_rps")) < goodput)


def show(results: Sequence[Mapping[str, Any]]) -> None:
    table = Table(
        "challenger", "load", "goodput ×", "p99 ×", "faults", "copies", "pairs", "its errors", "dropped", "bar"
    )
    for found in results:
        dropped = ", ".join(f"{cause} {rows:,}" for cause, rows in sorted(found["drops"].items()))
        table.add_row(
            found["kind"] + (f" (died {found['deaths']}×)" if found["deaths"] else ""),
            f"{found['factor']:.0%} of {found['capacity_rps']:,.0f}/s",
            _spread(ratios(found, "goodput_rps")),
            _spread(ratios(found, "p99_ms")),
            str(faults(found)),
            *(f"{found[name]:,}" for name in COUNTED),
            dropped,
            "met" if met(found) else "missed",
        )
    Console(width=180).print(table)


def _spread(values: Sequence[float]) -> str:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = (*hostile.HOSTILE, hostile.HEALTHY)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--kinds", nargs="*", default=kinds, choices=kinds)
    parser.add_argument("--noise-share", type=float, default=NOISE_SHARE, help="of the requests, to the primary again")
    parser.add_argument("--processors", type=float, help="what the challenger may use of one")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    results = asyncio.run(measure(options))
    show(results)
    raise SystemExit(not all(map(met, results)))


if __name__ == "__main__":
    main()
