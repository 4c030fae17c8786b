"""Control's figures for Prometheus: who is there, what is compared, how the ledger does.

Read when somebody scrapes, on the scraper's thread. Labels are model, version and words of our own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import Metric

from headrace import errors
from headrace.control.discovery import Directory
from headrace.control.experiments import ExperimentService
from headrace.control.ledger import Ledger
from headrace.experiments import stages
from headrace.telemetry.metrics import MODEL, Values, counter, gauge
from headrace.v1 import control_pb2
from headrace.v1 import experiments_pb2 as pb

STATES: Final = ("warming", "ready", "draining", "standby")
PREFIX: Final = "REPLICA_STATE_"
STAGES: Final = (*stages.ORDER, pb.STAGE_ROLLED_BACK)
REGISTERING: Final = (errors.InvalidInference, errors.Conflict, errors.NotPermitted, errors.Unauthenticated)
"""What becomes of registrations that are not entered."""


@dataclass(slots=True)
class Streams:
    """What the streams of control's port have come to."""

    followers: int = 0
    """Gateways that follow now."""
    refused: Counter[str] = field(default_factory=Counter)
    """Registrations that were not entered, by the name of the error."""


def scrape(
    directory: Directory,
    service: ExperimentService,
    ledger: Ledger,
    streams: Streams,
    refused_callers: Mapping[str, int],
) -> list[Metric]:
    """Every family, also where it has no series yet: a dashboard should find the name."""
    found = service.statistics()
    by_stage: Values = {(stages.word(stage).lower(),): float(found.stages.get(stage, 0)) for stage in STAGES}
    return [
        gauge("headrace_followers", "Gateways that follow.", (), {(): float(streams.followers)}),
        gauge("headrace_registered_replicas", "Replicas whose lease runs.", (*MODEL, "state"), _replicas(directory)),
        counter(
            "headrace_refused_registrations",
            "Registrations that were not entered.",
            ("reason",),
            _by_reason(streams.refused, REGISTERING),
        ),
        counter(
            "headrace_refused_callers",
            "Calls that were not let in.",
            ("reason",),
            _by_reason(refused_callers, (errors.Unauthenticated, errors.NotPermitted)),
        ),
        gauge("headrace_experiments", "Experiments.", ("stage",), by_stage),
        counter("headrace_counted_pairs", "Pairs that are in the ledger.", (), {(): float(found.pairs)}),
        gauge("headrace_ledger_waiting_acts", "What waits for the ledger.", (), {(): float(found.waiting)}),
        counter("headrace_ledger_failures", "What the ledger refused.", (), {(): float(ledger.failures)}),
        gauge("headrace_ledger_failing", "1: the ledger refused what it was asked last.", (), _one(ledger.failing)),
        *ledger.commits.collect(),
    ]


def _one(flag: bool) -> Values:  # noqa: FBT001  it is the value
    return {(): float(flag)}


def _by_reason(counted: Mapping[str, int], known: tuple[type[Exception], ...]) -> Values:
    return {(error.__name__,): float(counted.get(error.__name__, 0)) for error in known}


def _replicas(directory: Directory) -> Values:
    found: dict[tuple[str, ...], float] = {}
    for registration in directory.shown():
        lane = registration.spec.name, registration.spec.version
        for state in STATES:
            found.setdefault((*lane, state), 0.0)
        state = "standby" if registration.standby else _state(registration.state)
        found[*lane, state] = found.get((*lane, state), 0.0) + 1
    return found


def _state(state: control_pb2.ReplicaState) -> str:
    """A word of ours; `other` for what only a newer replica can say of itself."""
    known = control_pb2.ReplicaState.values()
    word = control_pb2.ReplicaState.Name(state).removeprefix(PREFIX).lower() if state in known else ""
    return word if word in STATES else "other"
