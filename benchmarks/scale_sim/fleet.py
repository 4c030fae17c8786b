"""Replicas of each run: ordered, starting, serving, lost. Pods of new nodes take minutes, and what is ordered is paid.

Told by policies how many there should be; tells lanes how many serve. A policy never touches more than the number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scale_sim.world import TICK_S, World

Array = NDArray[np.float64]
Run = tuple[int, ...]


class Fleet:
    """Whole replicas, one entry a run; `tick` is `TICK_S` long."""

    def __init__(self, shape: tuple[int, ...], world: World, begin_with: int) -> None:
        self._world = world
        self._horizon = round((world.node_s + world.start_s + world.notice_s) / TICK_S) + 2
        self._coming = np.zeros((self._horizon, *shape))
        """Replicas that serve from each of the next ticks on."""
        self._now = 0
        self.serving = np.full(shape, float(begin_with))
        self.target = self.serving.copy()
        self.pods = np.full(shape, float(max(begin_with, world.warm_pods)))
        """Pods there are or that are ordered."""
        self._filled_at = np.zeros(shape)
        self.paid_s = np.zeros(shape)
        """Replica-seconds, from the order to the end."""
        self.started: list[Array] = []
        """How many began to serve at each tick."""

    @property
    def ordered(self) -> Array:
        return self.serving + self._coming.sum(axis=0)

    def tick(self) -> None:
        """Who is due begins; pods that were empty for long go."""
        self._now = (self._now + 1) % self._horizon
        begun = self._coming[self._now].copy()
        self._coming[self._now] = 0.0
        self.serving += begun
        self.started.append(begun)
        ordered = self.ordered
        self.paid_s += ordered * TICK_S
        self._release(ordered)

    def _release(self, ordered: Array) -> None:
        now_s = len(self.started) * TICK_S
        self._filled_at = np.where(ordered >= self.pods, now_s, self._filled_at)
        empty = now_s - self._filled_at > self._world.idle_s
        self.pods = np.where(empty, np.maximum(ordered, self._world.warm_pods), self.pods)
        self._filled_at = np.where(empty, now_s, self._filled_at)

    def want(self, run: Run, replicas: int) -> None:
        """The policy of `run` has decided."""
        target = min(max(replicas, self._world.min_replicas), self._world.max_replicas)
        self.target[run] = target
        missing = int(target - self.serving[run] - self._coming[(slice(None), *run)].sum())
        if missing > 0:
            self._order(run, missing, 0.0)
        elif missing < 0:
            self._stop(run, -missing)

    def lose(self, share: float) -> None:
        """So many of the replicas that serve are gone, with their pods, and are ordered anew when it is noticed."""
        lost = np.round(self.serving * share)
        self.serving -= lost
        self.pods -= lost
        for run in np.ndindex(lost.shape):
            self._order(run, int(lost[run]), self._world.notice_s)

    def _order(self, run: Run, replicas: int, wait_s: float) -> None:
        placed = self.serving[run] + self._coming[(slice(None), *run)].sum()
        here = int(min(replicas, max(0.0, self.pods[run] - placed)))
        self._add(run, here, wait_s + self._world.start_s)
        self._add(run, replicas - here, wait_s + self._world.node_s + self._world.start_s)
        self.pods[run] += replicas - here

    def _add(self, run: Run, replicas: int, after_s: float) -> None:
        if replicas:
            self._coming[((self._now + round(after_s / TICK_S)) % self._horizon, *run)] += replicas

    def _stop(self, run: Run, replicas: int) -> None:
        """Those that would come last go first; then those that serve."""
        for ahead in range(self._horizon - 1, 0, -1):
            slot = ((self._now + ahead) % self._horizon, *run)
            cancelled = min(replicas, int(self._coming[slot]))
            self._coming[slot] -= cancelled
            replicas -= cancelled
            if not replicas:
                return
        self.serving[run] = max(0.0, self.serving[run] - replicas)
