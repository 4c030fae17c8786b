"""What a shadow costs the payments beside it: a hostile challenger at 40 % of capacity, a healthy one at 120 %.

    python benchmarks/isolation.py [--rounds 12] [--kinds hang crash …] [--processors 0.1] [--noise-share 0.1]

fraud-tx, open loop, one primary replica, deadlines of 50 ms, everything traced. The challenger is a replica of its own
with all requests copied to it (share 1), niced and limited in memory as a shadow should be on a machine it shares;
with --processors also in the processor, as a pod's limit does it (root alone may). A tenth of the pairs are asked of
the primary again: the noise floor, as by default.
A round is one load: so many seconds alone, then the experiment begins, and once the challenger has turned hostile so
many beside it, then as many alone again, with the challenger stopped where it is. Ratios are of the middle to the two
around it: a machine that others share changes its pace within seconds, and so neither way is always the last. The
challenger is ready, and idle, when a round begins: what one that has died costs until it is back counts where it died
beside payments. The kind `nobody` begins no experiment: what is found then is the measurement's error.
Writes build/bench/isolation.json and prints the table of docs/experiments.md: medians, in brackets the rounds' middle
half, and p99 of all rounds' payments together.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
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
import outcomes
from grpc import aio
from processor_limit import limited
from rich.console import Console
from rich.table import Table
from trail import Trail

from headrace.cluster import Cluster
from headrace.experiments.plan import NOISE_SHARE
from headrace.tasks import end
from headrace.v1 import control_pb2, control_pb2_grpc, experiments_pb2, experiments_pb2_grpc

OUT = Path("build/bench")
MODEL = "fraud-tx"
ROUNDS = 12
SECONDS = 4.0
"""What counts, of each part."""
WARM_UP_S = 1.0
START_S = 2.0
"""In which the generator's process begins."""
TURNS_S = 3.0
"""Between the parts: the challenger turns hostile in it."""
TELL_S = 2.0
"""Gateways tell control their pairs once a second."""
LOAD_S = START_S + WARM_UP_S + 3 * SECONDS + TURNS_S + TELL_S + 1.5
MODERATE, OVERLOAD = 0.4, 1.2
SEARCHES = 3
"""For the capacity; the middle one counts: two of one hour differed by half, and 40 % of a lucky one are too many."""
LAST = ("chrt", "--idle", "0", "nice", "-n", "19", "taskset", "-c", str(max(os.sched_getaffinity(0))))
"""Of the idle class, and on one core: docs/experiments.md says why."""
MEMORY_BYTES = 2**30
"""Of a challenger's data: a healthy one takes some 400 MB."""
RESTART_S = 1.0
READY_S = 240.0
COUNTED = ("sampled", "pairs", "errors")
NOBODY = "nobody"
FAULTS = (outcomes.WRONG, outcomes.ERROR, outcomes.LOST)
BARS = {MODERATE: (0.97, 1.15), OVERLOAD: (0.95, None)}
"""Share of payments right in time at least, p99 at most, both as ratios to the primary alone."""


class Challenger:
    """A replica process that gets what processor time is left, limited in memory, and started again when it dies."""

    def __init__(self, directory: Path, cluster: Cluster, held: Sequence[str]) -> None:
        limits = [*held, *LAST, "prlimit", f"--data={MEMORY_BYTES}"]
        replica = [sys.executable, "-m", "headrace", "replica", "--model-dir", str(directory)]
        self._command = [*limits, *replica, "--control", cluster.control_address, "--config", str(cluster.config_file)]
        self._process: asyncio.subprocess.Process | None = None
        self._may_run = asyncio.Event()
        self._may_run.set()
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

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """It does nothing meanwhile: what it has begun waits, and if it has died it is not started again."""
        self._may_run.clear()
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)
            self._may_run.set()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def _keep(self) -> None:
        while True:
            await self._may_run.wait()
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

    async def wait(self, *states: control_pb2.ReplicaState) -> None:
        """Until challengers are registered in these states and no other: one that has died is, until its lease ends."""
        async with asyncio.timeout(READY_S):
            while True:
                snapshot = await self._control.Describe(control_pb2.DescribeRequest())
                if [each.state for each in snapshot.replicas if each.spec.version == "2"] == list(states):
                    return
                await asyncio.sleep(0.2)

    async def begin(self, name: str) -> None:
        """An empty name: none."""
        if not name:
            return
        await self._stub.CreateExperiment(
            experiments_pb2.CreateExperimentRequest(
                id=name, model=MODEL, incumbent="1", challenger="2", plan=self._plan, start=True, why="isolation"
            )
        )

    async def end(self, name: str) -> experiments_pb2.Figures:
        await asyncio.sleep(TELL_S)
        if not name:
            return experiments_pb2.Figures()
        report = await self._stub.GetReport(experiments_pb2.GetReportRequest(id=name))
        await self._stub.Rollback(experiments_pb2.RollbackRequest(id=name, why="measured"))
        figures: experiments_pb2.Figures = report.report.figures
        return figures


@dataclass(frozen=True)
class Part:
    """Some seconds of a load: from when to when, and what the cluster's processes did with the processors in them."""

    began_s: float
    ended_s: float
    """On `perf_counter`."""
    processors_s: Mapping[str, tuple[float, float]]
    """Process → seconds that it ran, and that it waited for a core."""

    @classmethod
    async def of(cls, cluster: Cluster) -> Part:
        """The next `SECONDS`."""
        before, began_s = await processors(cluster), time.perf_counter()
        await asyncio.sleep(SECONDS)
        ended_s, after = time.perf_counter(), await processors(cluster)
        both = before.keys() & after.keys()
        return cls(
            began_s, ended_s, {n: (after[n][0] - before[n][0], after[n][1] - before[n][1]) for n in sorted(both)}
        )

    def figures(self, load: Trail) -> dict[str, Any]:
        """Of the requests that were meant to arrive in it. Raises: RuntimeError when the load did not cover it."""
        intended_s = load.start_s + load.intended_s
        if not (len(intended_s) and intended_s[0] + WARM_UP_S < self.began_s < self.ended_s < intended_s[-1]):
            raise RuntimeError("the load did not last as long as what was to be measured")
        inside = (intended_s >= self.began_s) & (intended_s < self.ended_s)
        answered_s = load.latency_s[inside & load.ended(outcomes.RIGHT, outcomes.LATE, outcomes.WRONG)]
        return {
            "right_share": load.ended(outcomes.RIGHT)[inside].mean(),
            **outcomes.percentiles("", answered_s, (50, 99)),
            **{kind: int(load.ended(kind)[inside].sum()) for kind in FAULTS},
            "latencies_ms": np.round(answered_s * 1e3, 2).tolist(),
            "processors_s": {name: np.round(each, 2).tolist() for name, each in self.processors_s.items()},
        }


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
        found = []
        await self.experiments.wait()
        async with challenger.running():
            for number in range(rounds):
                name = "" if kind == NOBODY else f"{kind}-{number}"
                parts, figures = await self._round(factor, number, name, challenger)
                found.append(parts)
                seen.update(sampled=figures.sampled, pairs=figures.pairs, errors=figures.challenger_errors.events)
                drops.update(figures.drops)
        about = {"kind": kind, "factor": factor, "capacity_rps": self.capacity_rps, "deaths": challenger.deaths}
        return {**about, "rounds": found, **{name: seen[name] for name in COUNTED}, "drops": drops}

    async def _round(
        self, factor: float, seed: int, experiment: str, challenger: Challenger
    ) -> tuple[dict[str, Any], experiments_pb2.Figures]:
        """One load: alone at first, then beside the experiment, then alone again."""
        await self.experiments.wait(control_pb2.REPLICA_STATE_READY)
        table = OUT / "isolation-table.npz"
        load = asyncio.create_task(
            driving.open_loop(
                self.cluster.address,
                self.questions,
                factor * self.capacity_rps,
                LOAD_S,
                warm_up=0.0,
                deadline_ms=capacity.DEADLINE_MS,
                seed=seed,
                table=table,
            )
        )
        try:
            await asyncio.sleep(START_S + WARM_UP_S)
            before = await Part.of(self.cluster)
            await self.experiments.begin(experiment)
            await asyncio.sleep(TURNS_S)
            shadowed = await Part.of(self.cluster)
            figures = await self.experiments.end(experiment)
            with challenger.stopped():
                after = await Part.of(self.cluster)
                await load
        finally:
            await end(load)
        whole = Trail.read(table)
        parts = {"alone": [before.figures(whole), after.figures(whole)], "shadowed": shadowed.figures(whole)}
        return parts, figures


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Told to end (SIGTERM), it leaves nobody behind."""
    measuring = asyncio.current_task()
    assert measuring is not None, "This is a bug."
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, measuring.cancel)
    questions = await asyncio.to_thread(asking.payments_of_64)
    with clusters.settings("local", MODEL, primary="1") as settings:
        async with Cluster(settings) as cluster, aio.insecure_channel(cluster.control_address) as channel:
            rate = statistics.median(
                [(await capacity.find(cluster.address, questions)).capacity_rps for _ in range(SEARCHES)]
            )
            # A breach would end the experiment that is being measured: here it may go on.
            experiments = Experiments(channel, experiments_pb2.Gates(min_coverage=0.0), options.noise_share)
            bench, results = Bench(cluster, experiments, questions, rate), []
            with limited(options.processors) if options.processors else contextlib.nullcontext(()) as held:
                for kind in options.kinds:
                    results.append(await bench.kind(kind, options.rounds, held))
                    (OUT / "isolation.json").write_text(json.dumps(results, indent=1))
            return results


async def processors(cluster: Cluster) -> dict[str, tuple[float, float]]:
    """Seconds so far that control, the gateway and every replica that lives have run, and waited for a core."""
    found = {}
    for name, pid in (await machine.processes(cluster)).items():
        with contextlib.suppress(OSError):  # a challenger that has just died is still listed
            found[name] = machine.cpu_seconds(pid), machine.waited_seconds(pid)
    return found


def ratios(found: Mapping[str, Any], figure: str) -> list[float]:
    """Beside the shadow over alone before and after, their geometric mean, round by round."""
    return [
        each["shadowed"][figure] / math.sqrt(math.prod(part[figure] for part in each["alone"]))
        for each in found["rounds"]
    ]


def pooled(found: Mapping[str, Any]) -> float:
    """p99 beside the shadow over p99 alone, of all rounds' payments together."""
    alone = [t for each in found["rounds"] for part in each["alone"] for t in part["latencies_ms"]]
    shadowed = [t for each in found["rounds"] for t in each["shadowed"]["latencies_ms"]]
    return float(np.percentile(shadowed, 99) / np.percentile(alone, 99))


def faults(found: Mapping[str, Any]) -> int:
    """Payments that got a wrong answer, an error or none while the shadow was there."""
    return sum(each["shadowed"][kind] for each in found["rounds"] for kind in FAULTS)


def met(found: Mapping[str, Any]) -> bool:
    goodput, p99 = BARS[found["factor"]]
    late = p99 is not None and np.median(ratios(found, "p99_ms")) > p99
    return not (faults(found) or late or np.median(ratios(found, "right_share")) < goodput)


def show(results: Sequence[Mapping[str, Any]]) -> None:
    columns = "challenger|load|in time ×|p99 ×|pooled|faults|copies|pairs|its errors|dropped|bar"
    table = Table(*columns.split("|"))
    for found in results:
        dropped = ", ".join(f"{cause} {rows:,}" for cause, rows in sorted(found["drops"].items()))
        table.add_row(
            found["kind"] + (f" (died {found['deaths']}×)" if found["deaths"] else ""),
            f"{found['factor']:.0%} of {found['capacity_rps']:,.0f}/s",
            _spread(ratios(found, "right_share")),
            _spread(ratios(found, "p99_ms")),
            f"{pooled(found):.2f}",
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
    kinds = (NOBODY, *hostile.HOSTILE, hostile.HEALTHY)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--kinds", nargs="*", default=kinds, choices=kinds)
    parser.add_argument("--noise-share", type=float, default=NOISE_SHARE, help="of the pairs, to the primary again")
    parser.add_argument("--processors", type=float, help="what the challenger may use of one")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    results = asyncio.run(measure(options))
    show(results)
    raise SystemExit(not all(map(met, results)))


if __name__ == "__main__":
    main()
