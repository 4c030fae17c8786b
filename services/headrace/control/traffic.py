"""Who answers for each model: as somebody set it, and as its experiments make it. Revisions rise, also over restarts.

Read from the ledger once; every change is written before it is in force. Used from the ledger's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from headrace.control.ledger import Ledger, Traffic
from headrace.errors import NotServing
from headrace.experiments import stages
from headrace.v1 import control_pb2
from headrace.v1 import experiments_pb2 as pb

log = logging.getLogger(__name__)

FILE: Final = "settings"
"""Who sets what the settings say."""


class Reason(NamedTuple):
    """Who changes something, and why."""

    who: str
    why: str


class Policies:
    """The traffic of all models. `wall_us`: microseconds since 1970."""

    def __init__(self, ledger: Ledger, wall_us: Callable[[], int]) -> None:
        self._ledger = ledger
        self._wall_us = wall_us
        self._traffic = ledger.traffic()

    def all(self) -> dict[str, control_pb2.TrafficPolicy]:
        """What gateways follow, by model."""
        return {model: traffic.policy for model, traffic in self._traffic.items()}

    def of(self, model: str) -> Traffic:
        """Of a model; nothing is set for one that nobody has spoken of."""
        empty = control_pb2.TrafficPolicy(model=model)
        return self._traffic.get(model, Traffic(empty, empty))

    def following(self, base: control_pb2.TrafficPolicy, experiments: Iterable[pb.Experiment]) -> Traffic:
        """The traffic that would follow. Its revision is also a time, so that it rises even over a lost ledger."""
        policy = stages.policy(base, experiments)
        policy.revision = max(self.of(base.model).policy.revision + 1, self._wall_us())
        return Traffic(base, policy)

    def put(self, traffic: Traffic) -> None:
        """Put in force what is in the ledger, or will be."""
        self._traffic[traffic.policy.model] = traffic

    def set(self, base: control_pb2.TrafficPolicy, reason: Reason) -> control_pb2.TrafficPolicy:
        """Say who answers for a model without experiments. Raises: NotServing."""
        traffic = self.following(base, ())
        with self._ledger.transaction(durable=True):
            self._ledger.add_traffic(traffic, self._wall_us(), *reason)
        self.put(traffic)
        return traffic.policy

    def declare(self, base: control_pb2.TrafficPolicy, live: Sequence[pb.Experiment]) -> None:
        """Take what the settings say of a model, where they say something else than when they were read last.

        Whoever edited the file later wins. Against an experiment that is on its way it has to wait: what it says is
        not taken as read until then. Raises: NotServing when the ledger can't be read.
        """
        unsaid = control_pb2.TrafficPolicy(model=base.model)
        if base == self._ledger.declared().get(base.model, unsaid):
            self._traffic.setdefault(base.model, Traffic(base, base))
            return
        if live:
            log.warning(
                "models.%s: who answers is decided by experiment '%s', not by the settings: they wait for a start "
                "after its end",
                base.model,
                live[0].id,
            )
            return
        traffic = self.following(base, ())
        try:
            with self._ledger.transaction(durable=True):
                self._ledger.put_declared(base)
                self._ledger.add_traffic(traffic, self._wall_us(), FILE, "the settings have changed")
        except NotServing:
            log.warning("models.%s: what the settings say is in force, and not in the ledger", base.model)
        self.put(traffic)
