"""The lanes' rules played one request at a time: what the flow of `lanes.py` is held against, at rates it can play.

First come first served, work-conserving, at most `max_rows` a batch; a request is refused when the work before it would
make it late, and told late when its batch could not bring it back in time.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scale_sim.world import World


@dataclass
class Played:
    arrived: int = 0
    answered: int = 0
    refused: int = 0
    late: int = 0
    busy_s: float = 0.0


class Exact:
    """A fixed number of replicas."""

    def __init__(self, world: World, replicas: int) -> None:
        self._cost, self._deadline_s = world.cost, world.deadline_s
        self._idle = replicas
        self._replicas = replicas
        self._ends: list[float] = []
        self._waiting: deque[float] = deque()
        self.played = Played()

    def play(self, times: NDArray[np.float64]) -> Played:
        for now in times.tolist():
            self._until(now)
            self._arrive(now)
        self._until(float("inf"))
        return self.played

    def _until(self, now: float) -> None:
        """Batches that end before `now` make room for others."""
        while self._ends and self._ends[0] <= now:
            end = heapq.heappop(self._ends)
            self._idle += 1
            self._dispatch(end)

    def _arrive(self, now: float) -> None:
        self.played.arrived += 1
        if not self._idle and self._ahead_s(now) + self._cost.batch(1) > self._deadline_s:
            self.played.refused += 1
            return
        self._waiting.append(now)
        self._dispatch(now)

    def _ahead_s(self, now: float) -> float:
        """What goes before one who comes now: batches that run, and what waits, over all replicas."""
        running_s = sum(end - now for end in self._ends)
        return (running_s + len(self._waiting) * self._cost.full_row_s) / self._replicas

    def _dispatch(self, now: float) -> None:
        while self._idle and self._waiting:
            run_s = self._cost.batch(min(len(self._waiting), self._cost.max_rows))
            if now + run_s > self._waiting[0] + self._deadline_s:
                self._waiting.popleft()
                self.played.late += 1
                continue
            rows = min(len(self._waiting), self._cost.max_rows)
            for _ in range(rows):
                self._waiting.popleft()
            self._idle -= 1
            self.played.answered += rows
            self.played.busy_s += run_s
            heapq.heappush(self._ends, now + run_s)
