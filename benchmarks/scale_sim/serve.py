"""Ray Serve's own autoscaling, its code and not ours, in simulated time: for its policy and for headrace's.

A policy here is a `DeploymentAutoscalingState` of Serve's controller: it averages reports over the look-back period,
calls the policy, applies factors, delays and bounds. Reports come as they do: sampled every
min(0.2 look-back, metrics interval), sent every metrics interval, and a tick old when they are read.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final
from unittest import mock

from ray.serve import autoscaling_policy
from ray.serve._private import autoscaling_state
from ray.serve._private.common import (
    DeploymentHandleSource,
    DeploymentID,
    HandleMetricReport,
    ReplicaID,
    ReplicaMetricReport,
    TimeStampedValue,
)
from ray.serve._private.config import DeploymentConfig, ReplicaConfig
from ray.serve._private.constants import SERVE_LOGGER_NAME
from ray.serve._private.deployment_info import DeploymentInfo
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from headrace.serving import scaling
from headrace.serving.scaling import BACKLOG, SLACK, WORK
from scale_sim.seen import Seen
from scale_sim.world import TICK_S, World

log = logging.getLogger(SERVE_LOGGER_NAME)

EPOCH_S: Final = 1e9
"""Serve's merge rounds as it does for the seconds of a wall clock."""
DEPLOYMENT: Final = DeploymentID("replica", "simulated")
IDS: Final = [ReplicaID(f"{number:04}", DEPLOYMENT) for number in range(1_000)]


class SimulatedTime:
    """Stands for the module `time` where Serve reads clocks."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def time(self) -> float:
        return EPOCH_S + self.now_s

    def monotonic(self) -> float:
        return self.now_s


CLOCK: Final = SimulatedTime()


@contextmanager
def simulated_time() -> Iterator[SimulatedTime]:
    """Serve's clocks show `CLOCK`, and its gauges stay where they are: nobody scrapes a simulation."""
    state = autoscaling_state.DeploymentAutoscalingState
    patches: list[tuple[Any, str, Any]] = [
        (autoscaling_policy, "time", CLOCK),
        (autoscaling_state, "time", CLOCK),
        (autoscaling_state.metrics, "Gauge", mock.MagicMock),
        (state, "record_autoscaling_metrics", _unseen),
    ]
    with ExitStack() as stack:
        for owner, name, stand_in in patches:
            stack.enter_context(mock.patch.object(owner, name, stand_in))
        level = log.level
        log.setLevel(logging.WARNING)  # a line for each policy made
        yield CLOCK
        log.setLevel(level)


def _unseen(*_: object) -> None:
    """Instead of what Serve does for its gauges."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast Serve looks and acts; defaults are Serve's."""

    metrics_interval_s: float = 10.0
    look_back_period_s: float = 30.0
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0


AS_IT_COMES: Final = Pace()
PROMPT: Final = Pace(metrics_interval_s=0.5, look_back_period_s=2.0, upscale_delay_s=0.5, downscale_delay_s=300.0)
"""headrace's own settings (config.AutoscalingSettings)."""


class Controller:
    """One deployment in Serve's controller."""

    def __init__(self, world: World, pace: Pace, begin_with: int, **config: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the interval's replacement is read nowhere in 2.60
            autoscaling = AutoscalingConfig(
                min_replicas=world.min_replicas,
                max_replicas=world.max_replicas,
                metrics_interval_s=pace.metrics_interval_s,
                look_back_period_s=pace.look_back_period_s,
                upscale_delay_s=pace.upscale_delay_s,
                downscale_delay_s=pace.downscale_delay_s,
                **config,
            )
        deployment = DeploymentConfig(autoscaling_config=autoscaling)
        info = DeploymentInfo(deployment, ReplicaConfig.create(Controller), 0, "simulated")
        self.state = autoscaling_state.DeploymentAutoscalingState(DEPLOYMENT)
        self.state.register(info, begin_with)
        self._running = -1
        self._sample_every = max(1, round(min(0.2 * pace.look_back_period_s, pace.metrics_interval_s) / TICK_S))
        self._send_every = max(1, round(pace.metrics_interval_s / TICK_S))
        self.keep = math.ceil(pace.look_back_period_s / TICK_S / self._sample_every)
        """Samples in a look-back period."""
        self._ticks = 0

    def due(self) -> tuple[bool, bool]:
        """A tick goes by: is it time for a sample, for a report?"""
        self._ticks += 1
        return self._ticks % self._sample_every == 0, self._ticks % self._send_every == 0

    def decide(self, seen: Seen) -> int:
        CLOCK.now_s = seen.now_s
        if seen.serving != self._running:
            self._running = seen.serving
            self.state.update_running_replica_ids(IDS[: seen.serving])
        return self.state.get_decision_num_replicas(seen.target)


class OngoingRequests:
    """Serve's default policy: so many requests, waiting or running, a replica."""

    def __init__(self, world: World, pace: Pace, target: float, begin_with: int, **config: float) -> None:
        self._controller = Controller(world, pace, begin_with, target_ongoing_requests=target, **config)
        self._samples: deque[TimeStampedValue] = deque(maxlen=self._controller.keep)
        self._sent: HandleMetricReport | None = None

    def decide(self, seen: Seen) -> int:
        if self._sent is not None:
            self._controller.state.record_request_metrics_for_handle(self._sent)
            self._sent = None
        decision = self._controller.decide(seen)
        sample, send = self._controller.due()
        if sample:
            self._samples.append(TimeStampedValue(EPOCH_S + seen.now_s, seen.ongoing))
        if send and self._samples:
            self._sent = self._report(EPOCH_S + seen.now_s)
        return decision

    def _report(self, now: float) -> HandleMetricReport:
        """All gateways as one handle: Serve sums what handles say."""
        source = DeploymentHandleSource.UNKNOWN
        return HandleMetricReport(DEPLOYMENT, "gateways", "", source, list(self._samples), {}, now)


class Reported:
    """headrace's policy, with what replicas report of their gateways' words: parts of backlog and work, and the slack.

    Replicas that began together report the same, so one of them speaks for all: its figures times their number.
    """

    def __init__(self, world: World, pace: Pace, begin_with: int, constants: Mapping[str, float]) -> None:
        with mock.patch.multiple(scaling, **constants):  # they travel by value, as the whole module does in production
            policy = AutoscalingPolicy(policy_function=f"{scaling.__name__}:follow_deadlines")
        self._controller = Controller(world, pace, begin_with, policy=policy)
        self._seen: deque[Seen] = deque(maxlen=self._controller.keep)
        self._sent: list[ReplicaMetricReport] = []
        self._speakers = 0

    def decide(self, seen: Seen) -> int:
        self._deliver()
        decision = self._controller.decide(seen)
        sample, send = self._controller.due()
        if sample:
            self._seen.append(seen)
        if send and self._seen:
            self._sent = self._reports(EPOCH_S + seen.now_s)
        return decision

    def _deliver(self) -> None:
        state = self._controller.state
        for report in self._sent:
            state.record_request_metrics_for_replica(report)
        if self._sent:
            for number in range(len(self._sent), self._speakers):
                state.on_replica_stopped(IDS[number])
            self._speakers = len(self._sent)
        self._sent = []

    def _reports(self, now: float) -> list[ReplicaMetricReport]:
        """Of each group that began in the look-back period, and of all who were there before."""
        seen = list(self._seen)
        young = [(number, one.begun) for number, one in enumerate(seen) if number and one.begun]
        old = max(1, seen[-1].serving - sum(begun for _, begun in young))
        groups = [(0, old), *young]
        return [
            ReplicaMetricReport(IDS[number], _figures(list(islice(seen, since, None)), many), now)
            for number, (since, many) in enumerate(groups)
        ]


def _figures(seen: list[Seen], many: int) -> dict[str, list[TimeStampedValue]]:
    share = [(EPOCH_S + one.now_s, many / max(1, one.serving), one) for one in seen]
    figures = {
        BACKLOG: [TimeStampedValue(at, part * one.backlog_s) for at, part, one in share],
        WORK: [TimeStampedValue(at, part * one.work) for at, part, one in share],
    }
    slack = [TimeStampedValue(at, max(0.0, one.slack_s)) for at, _, one in share if one.slack_s < math.inf]
    return {**figures, SLACK: slack} if slack else figures
