"""The span catalogue: which spans a record becomes, who is their parent, what they link and say.

Runs off the event loop, in the tracer's thread. `Span` is neutral; `otlp` encodes it twice, for a collector and
for a file. Never here: amounts, ids of cards or accounts, features, scores.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from headrace.core.records import BatchRecord, DispatchRecord, ReplicaRecord, RpcRecord
from headrace.telemetry.clock import wall_ns

INTERNAL, SERVER, CLIENT = 1, 2, 3
MAX_LINKS: Final = 512
SERVER_ERRORS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""Codes that make a server's span an error; a refusal that is the caller's fault does not."""

Value = str | int | float | bool
Attributes = tuple[tuple[str, Value], ...]


@dataclass(slots=True, eq=False)
class Shape:
    """What many spans have in common. Compared and hashed by identity: encoders keep its encoded form beside it."""

    name: str
    kind: int
    attributes: Attributes


class Span(NamedTuple):
    """One span, ready to encode. Times are Unix nanoseconds."""

    shape: Shape
    trace_id: bytes
    span_id: int
    parent_id: int
    start_ns: int
    end_ns: int
    attributes: Attributes = ()
    links: tuple[tuple[bytes, int], ...] = ()
    dropped_links: int = 0
    error: bool = False
    event: tuple[str, str] | None = None
    """(name, reason) of the one event a span may carry, at its end."""


@lru_cache(maxsize=1024)
def shape(name: str, kind: int, model: str, version: str, path: str = "") -> Shape:
    attributes: list[tuple[str, Value]] = [("headrace.model.name", model), ("headrace.model.version", version)]
    if path:
        attributes.append(("headrace.path", path))
    return Shape(name, kind, tuple(attributes))


@lru_cache(maxsize=1024)
def rpc_shape(method: str, model: str, version: str) -> Shape:
    lane = shape(method, SERVER, model, version, "primary").attributes
    return Shape(method, SERVER, (("rpc.system.name", "grpc"), ("rpc.method", method), *lane))


def new_id() -> int:
    return random.getrandbits(63) + 1


def rpc_spans(record: RpcRecord) -> Iterator[Span]:
    """`rpc`, and as far as the request got: `queue`, `execute` and its copy of `forward`."""
    start, end = wall_ns(record.start_ns), wall_ns(record.end_ns)
    yield Span(
        rpc_shape(record.method, record.model, record.version),
        record.trace_id,
        record.span_id,
        record.parent_id,
        start,
        end,
        _rpc_attributes(record),
        error=record.code in SERVER_ERRORS,
        event=None if record.queued_ns or not record.reason else ("headrace.shed", record.reason),
    )
    if record.queued_ns:
        yield from _rider_spans(record)


def _rpc_attributes(record: RpcRecord) -> Attributes:
    attributes: list[tuple[str, Value]] = [("rpc.response.status_code", record.code)]
    if record.reason:
        attributes.append(("error.type", record.reason))
    if record.request_id:
        attributes.append(("headrace.request.id", record.request_id))
    if record.tokens:
        attributes.append(("headrace.tokens", record.tokens))
    if record.deadline_ns:
        attributes.append(("headrace.deadline.ms", (record.deadline_ns - record.start_ns) / 1e6))
        attributes.append(("headrace.deadline.slack_ms", (record.deadline_ns - record.end_ns) / 1e6))
    return tuple(attributes)


def _rider_spans(record: RpcRecord) -> Iterator[Span]:
    left_ns = record.closed_ns or record.settled_ns
    yield Span(
        shape("queue", INTERNAL, record.model, record.version, "primary"),
        record.trace_id,
        new_id(),
        record.span_id,
        wall_ns(record.queued_ns),
        wall_ns(left_ns),
        (("headrace.queue.ms", (left_ns - record.queued_ns) / 1e6), ("headrace.queue.depth", record.queue_depth)),
    )
    batch = record.batch
    if batch is None:
        return
    execute_id = new_id()
    attributes: list[tuple[str, Value]] = [
        ("headrace.batch.id", f"{batch.span_id:016x}"),
        ("headrace.batch.row", record.row),
        ("headrace.batch.size", batch.rows),
        ("headrace.retries", max(0, len(batch.dispatches) - 1)),
    ]
    if record.masked:
        attributes.append(("headrace.masked", True))
    yield Span(
        shape("execute", INTERNAL, record.model, record.version, "primary"),
        record.trace_id,
        execute_id,
        record.span_id,
        wall_ns(record.closed_ns),
        wall_ns(record.settled_ns),
        tuple(attributes),
        ((batch.trace_id, batch.span_id),),
    )
    if batch.forward_span_id:
        yield Span(
            shape("forward", INTERNAL, record.model, record.version, "primary"),
            record.trace_id,
            new_id(),
            execute_id,
            *batch.forward_wall_ns,
            (("headrace.batch.size", batch.rows), ("headrace.tokens.padded", batch.padded_tokens)),
            ((batch.trace_id, batch.forward_span_id),),
        )


def batch_spans(record: BatchRecord) -> Iterator[Span]:
    """`batch`, linked to every sampled member, and a `dispatch` for each attempt."""
    members = [(member.trace_id, member.span_id) for member in record.members if member.sampled]
    yield Span(
        shape("batch", INTERNAL, record.model, record.version, record.path),
        record.trace_id,
        record.span_id,
        0,
        wall_ns(record.closed_ns),
        wall_ns(record.settled_ns),
        (
            ("headrace.batch.id", f"{record.span_id:016x}"),
            ("headrace.batch.size", record.rows),
            ("headrace.tokens", record.tokens),
            ("headrace.batch.close_reason", record.close_reason),
            ("headrace.batch.oldest_ms", (record.closed_ns - record.oldest_ns) / 1e6),
        ),
        tuple(members[:MAX_LINKS]),
        max(0, len(members) - MAX_LINKS),
    )
    for dispatch in record.dispatches:
        yield _dispatch_span(record, dispatch)


def _dispatch_span(batch: BatchRecord, dispatch: DispatchRecord) -> Span:
    attributes: list[tuple[str, Value]] = [
        ("headrace.attempt", dispatch.attempt),
        ("headrace.replica.id", dispatch.replica_id),
        ("headrace.payload.bytes", dispatch.payload_bytes),
    ]
    if dispatch.error:
        attributes.append(("error.type", dispatch.error))
    return Span(
        shape("dispatch", CLIENT, batch.model, batch.version, batch.path),
        batch.trace_id,
        dispatch.span_id,
        batch.span_id,
        wall_ns(dispatch.start_ns),
        wall_ns(dispatch.end_ns),
        tuple(attributes),
        error=bool(dispatch.error),
    )


def replica_spans(record: ReplicaRecord) -> Iterator[Span]:
    """`replica.batch` with `unpack` and `forward`, as the replica stamped them."""
    yield Span(
        shape("replica.batch", SERVER, record.model, record.version),
        record.trace_id,
        record.span_id,
        record.parent_id,
        record.received_wall_ns,
        record.packed_wall_ns,
        (
            ("headrace.replica.id", record.replica_id),
            ("headrace.device", record.device),
            ("headrace.batch.size", record.rows),
            ("headrace.rows.expired", record.expired),
        ),
    )
    yield Span(
        shape("unpack", INTERNAL, record.model, record.version),
        record.trace_id,
        new_id(),
        record.span_id,
        record.started_wall_ns,
        record.unpacked_wall_ns,
    )
    yield Span(
        shape("forward", INTERNAL, record.model, record.version),
        record.trace_id,
        record.forward_span_id,
        record.span_id,
        record.forward_wall_ns,
        record.computed_wall_ns,
        (("headrace.tokens", record.tokens), ("headrace.tokens.padded", record.padded_tokens)),
    )
