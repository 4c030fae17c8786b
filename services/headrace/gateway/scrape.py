"""Figures that parts of the gateway keep anyway, as metrics: read when somebody scrapes, on the scraper's thread."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client.core import Metric

from headrace.errors import NotPermitted, Unauthenticated
from headrace.gateway.idempotency import Repeats
from headrace.gateway.lane import Lane
from headrace.gateway.models import Models
from headrace.gateway.pressure import Pressure
from headrace.gateway.queued import is_late
from headrace.gateway.sequences import Sequences
from headrace.gateway.snapshot import SnapshotFollower
from headrace.gateway.streams import Streams
from headrace.gateway.telling import PairTeller
from headrace.telemetry.metrics import MODEL, Values, counter, gauge
from headrace.telemetry.tracing import Tracer
from headrace.v1 import control_pb2

STATES: Final = {
    control_pb2.REPLICA_STATE_WARMING: "warming",
    control_pb2.REPLICA_STATE_READY: "ready",
    control_pb2.REPLICA_STATE_DRAINING: "draining",
}


def scrape(
    models: Models,
    tracer: Tracer,
    pressure: Pressure,
    follower: SnapshotFollower,
    teller: PairTeller,
    refused: Mapping[str, int],
) -> list[Metric]:
    """Every family, also where it has no series yet: a dashboard should find the name."""
    lanes = {(lane.spec.name, lane.spec.version): lane for lane in models.lanes()}

    def each(value: Callable[[Lane], float]) -> Values:
        return {key: value(lane) for key, lane in lanes.items()}

    statistics = tracer.statistics()
    results = {"exported": statistics.exported, "rejected": statistics.rejected, "failed": statistics.failed}
    info: dict[tuple[str, ...], float] = {
        (*key, lane.spec.digest, lane.spec.platform): 1.0 for key, lane in lanes.items()
    }
    return [
        gauge("nv_inference_pending_request_count", "Accepted, not running.", MODEL, each(lambda x: len(x.queue))),
        gauge("headrace_queue_rows", "Rows that wait.", MODEL, each(lambda x: x.queue.rows)),
        gauge("headrace_queue_tokens", "Events that wait.", MODEL, each(lambda x: x.queue.tokens)),
        gauge("headrace_backlog_seconds", "Replica-seconds that wait.", (*MODEL, "cause"), _backlog(lanes)),
        gauge("headrace_inflight_batches", "Batches at replicas.", MODEL, each(lambda x: x.dispatcher.flights)),
        gauge("headrace_replicas", "Replicas, as seen from here.", (*MODEL, "state"), _replicas(lanes)),
        gauge("headrace_model_info", "What is served.", (*MODEL, "digest", "platform"), info),
        counter("headrace_retries", "Second tries.", MODEL, each(lambda x: x.dispatcher.retries)),
        counter("headrace_evictions", "Replicas taken out of choice.", MODEL, each(lambda x: x.dispatcher.evictions)),
        counter(
            "headrace_telemetry_spans",
            "Spans, by what became of them.",
            ("result",),
            {(result,): float(count) for result, count in results.items()},
        ),
        counter(
            "headrace_telemetry_dropped_requests",
            "Requests whose spans were never made: too many waited.",
            (),
            {(): float(statistics.dropped)},
        ),
        gauge("headrace_event_loop_busy_ratio", "Time the event loop ran or wanted to.", (), {(): pressure.busy}),
        gauge("headrace_telemetry_waiting_requests", "Records to be told.", (), {(): float(statistics.waiting)}),
        gauge("headrace_control_connected", "1: this gateway hears control.", (), {(): float(follower.connected)}),
        counter("headrace_refused_callers", "Calls that were not let in.", ("reason",), _refused(refused)),
        *_traffic(models),
        *_comparisons(models),
        gauge("headrace_pairs_waiting", "Pairs that control has not heard of.", (), {(): float(teller.waiting)}),
        counter("headrace_pairs", "Pairs, by what became of them.", ("result",), _pairs(teller)),
    ]


def scrape_held(models: Models, streams: Streams, sequences: Sequences) -> list[Metric]:
    """What callers keep open here."""
    held = sequences.held(models.lanes())
    return [
        gauge("headrace_streams", "Open ModelStreamInfer calls.", (), {(): float(len(streams))}),
        gauge("headrace_sequences", "Sequences whose state is kept.", MODEL, held),
    ]


def _refused(refused: Mapping[str, int]) -> Values:
    return {(reason,): float(refused.get(reason, 0)) for reason in (Unauthenticated.__name__, NotPermitted.__name__)}


def remembered(repeats: Repeats) -> list[Metric]:
    """What is kept of answers to requests with an idempotency key."""
    kept = repeats.statistics()
    return [
        gauge("headrace_idempotency_answers", "Answers that are remembered.", (), {(): float(kept.entries)}),
        gauge("headrace_idempotency_bytes", "What they take.", (), {(): float(kept.size)}),
        counter("headrace_idempotency_forgotten", "Answers let go before their time.", (), {(): float(kept.forgotten)}),
    ]


def _pairs(teller: PairTeller) -> Values:
    return {("told",): float(teller.told), ("lost",): float(teller.lost)}


def _traffic(models: Models) -> list[Metric]:
    """By which policy requests go, and where they could not go by it."""
    revisions: dict[tuple[str, ...], float] = {(model.name,): float(model.policy.revision) for model in models}
    unsteered: dict[tuple[str, ...], float] = {}
    for model in models:
        unsteered[model.name, "no_entity"] = model.without_entity
        unsteered[model.name, "canary_away"] = model.canary_away
    about = "Requests the primary answered although there was a canary."
    return [
        gauge("headrace_policy_revision", "Of the traffic policy in force.", ("model",), revisions),
        counter("headrace_canary_passed_over", about, ("model", "reason"), unsteered),
    ]


def _comparisons(models: Models) -> list[Metric]:
    held: dict[tuple[str, ...], float] = defaultdict(float)
    for key, lane in models.comparisons:
        held[key.model, key.asked] += lane.held
    return [gauge("headrace_shadow_rows", "Copies that wait or are at a replica.", MODEL, held)]


def _backlog(lanes: dict[tuple[str, str], Lane]) -> Values:
    """`gateway`: work waits although a replica is idle. `replicas`: every one of them has work."""
    found: dict[tuple[str, ...], float] = {}
    for key, lane in lanes.items():
        idle, seconds = is_late(lane), lane.backlog_s()
        found[*key, "gateway"] = seconds if idle else 0.0
        found[*key, "replicas"] = 0.0 if idle else seconds
    return found


def _replicas(lanes: dict[tuple[str, str], Lane]) -> Values:
    found: dict[tuple[str, ...], float] = {}
    for key, lane in lanes.items():
        for state in (*STATES.values(), "evicted"):
            found[*key, state] = 0.0
        for link in lane.dispatcher.links:
            found[*key, "evicted" if link.evicted else STATES.get(link.state, "draining")] += 1
    return found
