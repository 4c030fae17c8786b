"""Every policy, setting and seed of one trace, side by side in one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scale_sim.fleet import Fleet
from scale_sim.lanes import Lanes
from scale_sim.policies import Contender
from scale_sim.seen import Policy, Seen
from scale_sim.serve import simulated_time
from scale_sim.traces import Trace
from scale_sim.world import TICK_S, World

Array = NDArray[np.float64]
FADE: Final = math.exp(-TICK_S)
"""Of the work that arrives: a second (core/demand.py)."""


@dataclass(frozen=True)
class Replayed:
    """What came of one trace: an entry a run, [setting of a contender, seed], without the settling."""

    runs: list[tuple[str, float]]
    """Contender and setting."""
    arrived: Array
    answered: Array
    refused: Array
    late: Array
    replica_s: Array
    rates: Array
    """Requests a second at each tick of the first seed."""
    serving: Array
    """[tick, setting] of the first seed."""
    missed: Array
    """Requests that were refused or late, likewise."""


def replay(trace: Trace, world: World, contenders: Sequence[Contender], seeds: tuple[int, ...]) -> Replayed:
    with simulated_time():
        return _Replay(trace, world, contenders, seeds).run()


class _Replay:
    def __init__(self, trace: Trace, world: World, contenders: Sequence[Contender], seeds: tuple[int, ...]) -> None:
        self._trace, self._world, self._seeds = trace, world, seeds
        begin_with = math.ceil(world.busy(float(trace.rate(np.zeros(1))[0])) / 0.8)
        self._runs = [(one, setting) for one in contenders for setting in one.settings]
        shape = (len(self._runs), len(seeds))
        phases = [number / len(seeds) for number in range(len(seeds))]
        self._policies: list[list[Policy]] = [
            [one.make(world, setting, begin_with, phase) for phase in phases] for one, setting in self._runs
        ]
        self._lanes = Lanes(shape, world)
        self._fleet = Fleet(shape, world, begin_with)
        self._work = np.zeros(shape)
        self._used_s = np.zeros(shape)
        """Processor seconds of a replica that was there from the first."""

    def run(self) -> Replayed:
        lanes, fleet = self._lanes, self._fleet
        losses = dict(self._trace.losses)
        settled = self._figures()
        rates, serving, missed = [], [], []
        for tick, arriving in enumerate(self._trace.arrivals(self._seeds)):
            now_s = tick * TICK_S - self._trace.settle_s
            if now_s == 0.0:
                settled = self._figures()
            if (share := losses.get(now_s)) is not None:
                fleet.lose(share)
            self._serve(arriving)
            self._decide(now_s + TICK_S)
            if now_s >= 0:
                rates.append(float(arriving[:, 0].sum()) / TICK_S)
                serving.append(fleet.serving[:, 0].copy())
                missed.append((lanes.refused + lanes.late)[:, 0].copy())
        lanes.settle()
        names = [(one.name, setting) for one, setting in self._runs]
        figures = [now - before for now, before in zip(self._figures(), settled, strict=True)]
        lost = np.diff(np.stack(missed), axis=0, prepend=missed[:1])
        return Replayed(names, *figures, np.array(rates), np.stack(serving), lost)

    def _figures(self) -> tuple[Array, ...]:
        lanes = self._lanes
        return (
            lanes.arrived - lanes.waiting,  # whoever waits as the settling ends belongs to what is counted
            lanes.answered.copy(),
            lanes.refused.copy(),
            lanes.late.copy(),
            self._fleet.paid_s.copy(),
        )

    def _serve(self, arriving: Array) -> None:
        """A tick of the lanes; `arriving` is [steps, seeds]."""
        lanes, serving = self._lanes, self._fleet.serving
        before = lanes.busy_s.copy()
        rows = np.zeros(serving.shape)
        for now in arriving:
            rows[:] = now
            lanes.step(rows, serving)
        self._used_s += (lanes.busy_s - before) / np.maximum(1.0, serving)
        work = arriving.sum(axis=0) / TICK_S * self._world.cost.full_row_s
        self._work += (1 - FADE) * (work - self._work)

    def _decide(self, now_s: float) -> None:
        fleet = self._fleet
        fleet.tick()
        for run, (policy, seen) in self._shown(now_s):
            decision = policy.decide(seen)
            if decision is not None and decision != seen.target:
                fleet.want(run, decision)

    def _shown(self, now_s: float) -> list[tuple[tuple[int, int], tuple[Policy, Seen]]]:
        lanes, fleet = self._lanes, self._fleet
        columns = (
            fleet.target,
            fleet.serving,
            fleet.ordered,
            fleet.started[-1],
            lanes.backlog_s(),
            self._work,
            lanes.slack_s(),
            lanes.waiting + lanes.riding,
            self._used_s,
        )
        listed = zip(*(column.ravel().tolist() for column in columns), strict=True)
        runs = np.ndindex(fleet.target.shape)
        policies = (policy for row in self._policies for policy in row)
        return [
            (run, (policy, Seen(now_s, int(target), int(serving), int(ordered), int(begun), *rest)))
            for run, policy, (target, serving, ordered, begun, *rest) in zip(runs, policies, listed, strict=True)
        ]
