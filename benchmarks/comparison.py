"""headrace beside its peers on W1 and W2: rounds over the systems, the order turned round every time.

A system is started for its turn and stopped after it. On two cores an idle one is not idle: Ray Serve alone takes about
a tenth of a core with nothing to do, which the others would pay for. Answers of one round are compared with each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import generators
import machine
import systems
import workloads
from rich.progress import Progress

Run = dict[str, Any]
CHECKED = 64
"""Concurrency of the run in which our own generator compares every answer."""


@dataclass(frozen=True)
class Plan:
    rounds: int
    loads: dict[str, tuple[int, ...]]
    seconds: float
    """Of each load."""
    checked_seconds: float
    names: tuple[str, ...] = ()
    """Systems to measure. Empty = all."""


FULL = Plan(3, {"W1": (1, 8, 64), "W2": (16, 64)}, seconds=6.0, checked_seconds=3.0)
QUICK = Plan(2, {"W1": (1, 64), "W2": (64,)}, seconds=3.0, checked_seconds=1.5)


@dataclass(frozen=True)
class Turn:
    round: int
    workload: workloads.Workload
    system: systems.System

    def row(self, load: str, **found: Any) -> Run:
        tracing = self.system.name == "headrace"
        named = {"workload": self.workload.name, "system": self.system.name, "tracing": tracing, "load": load}
        return {**named, "round": self.round, **found}


def compare(plan: Plan, engine: str, folder: Path) -> list[Run]:
    """Every run of every round; a system that does not start has a row that says why."""
    chosen = [one for one in systems.all_systems(engine) if not plan.names or one.name in plan.names]
    made = [workloads.make(name) for name in plan.loads]
    turns = list(in_turn(plan.rounds, made, chosen))
    runs: list[Run] = []
    with Progress() as progress:
        task = progress.add_task("", total=len(turns))
        for turn in turns:
            progress.update(task, description=f"round {turn.round + 1} {turn.workload.name} {turn.system.name:13}")
            runs += take(turn, plan, folder)
            progress.advance(task)
    return runs


def in_turn(rounds: int, made: list[workloads.Workload], chosen: list[systems.System]) -> Iterator[Turn]:
    for number in range(rounds):
        for workload in made:
            able = [system for system in chosen if workload.name in system.workloads]
            for system in able if number % 2 == 0 else reversed(able):
                yield Turn(number, workload, system)


def take(turn: Turn, plan: Plan, folder: Path) -> list[Run]:
    questions = turn.workload.write(folder, padded=turn.system.padded)
    try:
        with turn.system.start(turn.workload.name) as running:
            target = generators.Target(running.address, turn.workload.model, running.metrics)
            return list(loads(turn, plan, questions, target, running))
    except systems.NotRunningError as error:
        return [turn.row("-", rps=None, p50_ms=None, p99_ms=None, errors=1, wrong=0, cpu_s=None, note=str(error))]


def loads(
    turn: Turn, plan: Plan, questions: workloads.Questions, target: generators.Target, running: systems.Running
) -> Iterator[Run]:
    """The checked run first: it warms what only warms under load."""

    yield measured(
        turn, CHECKED, running, partial(generators.own, target, questions.own, CHECKED, plan.checked_seconds)
    )
    for each in plan.loads[turn.workload.name]:
        yield measured(turn, each, running, partial(load, target, questions, each, plan.seconds))


def load(target: generators.Target, questions: workloads.Questions, concurrency: int, seconds: float) -> Run:
    """By perf_analyzer where there is one, else by our own."""
    if binary := generators.perf_analyzer():
        return generators.nvidia(binary, target, questions.perf_analyzer, concurrency, seconds)
    return generators.own(target, questions.own, concurrency, seconds)


def measured(turn: Turn, concurrency: int, running: systems.Running, work: Callable[[], Run]) -> Run:
    """A run, with the processor seconds that the system's processes spent meanwhile and how long that was."""
    before, begun = machine.spent_by(running.pids()), time.perf_counter()
    found = work()
    after, wall_s = machine.spent_by(running.pids()), time.perf_counter() - begun
    spent = sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())
    return turn.row(f"closed-{concurrency}", **found, cpu_s=round(spent, 2), wall_s=round(wall_s, 2))
