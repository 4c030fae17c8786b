"""Kubernetes' HorizontalPodAutoscaler on CPU, as its controller computes it.

Source: kubernetes.io, "Horizontal Pod Autoscaling" (algorithm details, default behaviour), and the controller,
kubernetes/kubernetes pkg/controller/podautoscaler: replica_calculator.go (GetResourceReplicas, groupPods) and
horizontal.go (stabilizeRecommendationWithBehaviors, calculateScaleUpLimitWithScalingRules). Its flags' defaults:
sync period 15 s, tolerance 0.1, CPU initialisation period 5 min; metrics-server resolves 15 s.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from scale_sim.seen import Seen
from scale_sim.world import TICK_S, World

SYNC_S: Final = 15.0
WINDOW_S: Final = 15.0
TOLERANCE: Final = 0.1
CPU_INITIALISATION_S: Final = 300.0
STABILISATION_S: Final = 300.0
"""Of shrinking; growing has none."""
PERIOD_S: Final = 15.0
"""Growth within it: to twice as many or by four pods, whichever is more."""
PODS: Final = 4


class CpuUtilisation:
    """An HPA with the default behaviour, whose pods request one core; `target` is a percentage."""

    def __init__(self, world: World, target: float, phase_s: float = 0.0) -> None:
        self._world = world
        self._target = target
        self._ticks = round(phase_s / TICK_S)
        self._every = round(SYNC_S / TICK_S)
        self._window = deque[float](maxlen=round(WINDOW_S / TICK_S) + 1)
        self._scraped: float | None = None
        """Percentage over the window that metrics-server has whole."""
        self._begun: deque[tuple[float, int]] = deque()
        self._recommended: deque[tuple[float, int]] = deque()
        self._grown: deque[tuple[float, int]] = deque()

    def decide(self, seen: Seen) -> int | None:
        self._watch(seen)
        self._ticks += 1
        if self._ticks % self._every:
            return None
        scraped, self._scraped = self._scraped, self._utilisation()
        if scraped is None or not seen.serving:
            return None
        return self._limited(seen, self._stabilised(seen, self._recommendation(seen, scraped)))

    def _watch(self, seen: Seen) -> None:
        self._window.append(seen.busy_s)
        if seen.begun:
            self._begun.append((seen.now_s, seen.begun))
        while self._begun and self._begun[0][0] < seen.now_s - CPU_INITIALISATION_S:
            self._begun.popleft()

    def _utilisation(self) -> float | None:
        """Of a core, in whole percent, as the controller rounds it."""
        if len(self._window) < 2:
            return None
        return math.floor(100 * (self._window[-1] - self._window[0]) / ((len(self._window) - 1) * TICK_S))

    def _recommendation(self, seen: Seen, utilisation: float) -> int:
        """Pods that are starting, or ready for less than a window, have no sample that counts."""
        fresh = sum(begun for at, begun in self._begun if at > seen.now_s - WINDOW_S - SYNC_S)
        unready = min(seen.ordered - 1, fresh + seen.ordered - seen.serving)
        return replicas_for(utilisation / self._target, seen.target, seen.ordered - unready, unready)

    def _stabilised(self, seen: Seen, recommendation: int) -> int:
        """The highest of five minutes, where fewer are wanted than there are."""
        self._recommended.append((seen.now_s, recommendation))
        while self._recommended[0][0] <= seen.now_s - STABILISATION_S:
            self._recommended.popleft()
        if recommendation >= seen.target:
            return recommendation
        return min(seen.target, max(number for _, number in self._recommended))

    def _limited(self, seen: Seen, wanted: int) -> int:
        while self._grown and self._grown[0][0] < seen.now_s - PERIOD_S:
            self._grown.popleft()
        began_with = seen.target - sum(number for _, number in self._grown)
        most = max(seen.target, began_with + PODS, 2 * began_with)
        wanted = min(max(wanted, self._world.min_replicas), most, self._world.max_replicas)
        if wanted > seen.target:
            self._grown.append((seen.now_s, wanted - seen.target))
        return wanted


def replicas_for(ratio: float, current: int, ready: int, unready: int) -> int:
    """GetResourceReplicas: `ratio` of use to target over the `ready` pods; no pod is without a metric here."""
    if not (unready and ratio > 1.0):
        return current if abs(1.0 - ratio) <= TOLERANCE else math.ceil(ratio * ready)
    # Growing with pods on their way: these count as idle, and may not turn the direction.
    diluted = ratio * ready / (ready + unready)
    if diluted < 1.0 or abs(1.0 - diluted) <= TOLERANCE:
        return current
    return max(current, math.ceil(diluted * (ready + unready)))
