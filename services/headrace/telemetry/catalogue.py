"""The span catalogue: which spans a record becomes, who is their parent, what they link and say.

Runs off the event loop, in the tracer's thread. docs/tracing.md is this file as a table. Never here: amounts, ids
of cards or accounts, features, scores.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from headrace.core.records import FALLBACK, BatchRecord, Detour, DispatchRecord, ReplicaIdentity, RpcRecord, Stages
from headrace.telemetry import clock
from headrace.telemetry.form import CLIENT, INTERNAL, SERVER, Attributes, Blank, Encoding, Stencil
from headrace.telemetry.keep import strongest
from headrace.telemetry.request_log import hashed

SERVER_ERRORS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""Codes that make a server's span an error; a refusal that is the caller's fault does not."""
MAX_STENCILS: Final = 1024
BESIDE: Final = frozenset({"shadow", FALLBACK})
"""The paths of what is asked beside a request: it has no `rpc` of its own, and stands under that request's."""


@dataclass(slots=True)
class Page:
    """Encoded spans that leave together: the gateway's own, and those it draws for each replica."""

    own: list[bytes] = field(default_factory=list)
    replicas: dict[ReplicaIdentity, list[bytes]] = field(default_factory=dict)
    spans: int = 0


class Lane(NamedTuple):
    """Where a request or a batch ran."""

    model: str
    version: str
    path: str

    @property
    def attributes(self) -> Attributes:
        return (
            ("headrace.model.name", self.model),
            ("headrace.model.version", self.version),
            ("headrace.path", self.path),
        )


@dataclass(frozen=True, slots=True)
class Shared:
    """What the members of one batch have in common in their `execute` and their copy of `forward`."""

    rows: int
    retries: int
    batch_id: str
    to_batch: bytes
    forward: tuple[int, int] | None
    """Begin and end of the forward pass; None = no answer came."""
    to_forward: bytes = b""
    padded_tokens: int = 0


class Catalogue:
    """Writes families and single requests as spans. `server`: this process's address and port."""

    def __init__(self, encoding: Encoding, server: Attributes, max_links: int) -> None:
        self._encoding = encoding
        self._server = server
        self._max_links = max_links
        self._stencils: dict[Hashable, Stencil] = {}

    def single(self, record: RpcRecord, kept: str, page: Page) -> None:
        """A request that never joined a batch: `rpc`, and `queue` if it got so far."""
        if record.path == FALLBACK:
            self._aside(record, record.settled_ns, None, clock.offset_ns(), page)
            return
        self._rider(record, kept, record.settled_ns, None, clock.offset_ns(), page)

    def family(self, batch: BatchRecord, kept: list[str], page: Page) -> None:
        """A batch, its attempts, what its replicas did, and the spans of every sampled member.

        `kept`: one reason a member, as Keeper gives them.
        """
        wall = clock.offset_ns()
        shared = self._batch(batch, strongest(kept), wall, page)
        for member, reason in zip(batch.members, kept, strict=True):
            if member.sampled and member.path in BESIDE:
                self._aside(member, batch.closed_ns, shared, wall, page)
            elif member.sampled:
                self._rider(member, reason, batch.closed_ns, shared, wall, page)

    # A request ----------------------------------------------------------------------------------------------------

    def _rider(self, r: RpcRecord, kept: str, left_ns: int, shared: Shared | None, wall: int, page: Page) -> None:
        """`rpc`, `queue`, `execute` and the rider's `forward`, as far as it got. It left the queue at `left_ns`."""
        computed = shared is not None and shared.forward is not None and r.row >= 0 and not r.masked
        stencil = self._rider_stencil(r, kept, shared is not None, computed)
        address, port = _peer(r.peer)
        state = self._encoding.state(r.tracestate) if r.tracestate else b""
        first = _to_original(r.detour, self._encoding) + state if r.detour else state
        fresh = random.randbytes(24)  # the span ids of the three below `rpc`

        # Each `+=` is one more span, in the order of `_rider_blanks`.
        ids: tuple[bytes, ...] = (r.trace_id, r.span_id.to_bytes(8))
        times: tuple[int, ...] = (r.start_ns + wall, r.end_ns + wall)
        integers: tuple[int, ...] = (r.tokens, port)
        strings: tuple[str, ...] = (address, hashed(r.request_id)) if r.request_id else (address,)
        extras: tuple[bytes, ...] = (first,)
        doubles: tuple[float, ...] = ()
        if r.parent_id:
            ids += (r.parent_id.to_bytes(8),)
        if r.deadline_ns:
            doubles = (r.deadline_ns - r.start_ns) / 1e6, (r.deadline_ns - r.end_ns) / 1e6
        if r.queued_ns:
            ids += (fresh[:8],)
            times += r.queued_ns + wall, left_ns + wall
            doubles += ((left_ns - r.queued_ns) / 1e6,)
            integers += r.queue_depth, r.priority
        if shared is not None:
            ids += (fresh[8:16],)
            times += (r.settled_ns + wall,)
            integers += r.row, shared.rows, shared.retries
            strings += (shared.batch_id,)
            extras += (shared.to_batch + state,)
            if computed and shared.forward is not None:
                ids += (fresh[16:],)
                times += shared.forward
                integers += (shared.padded_tokens,)
                extras += (shared.to_forward + state,)
        page.own.append(stencil.fill(ids, times, doubles, integers, strings, extras))
        page.spans += stencil.spans

    def _aside(self, r: RpcRecord, left_ns: int, shared: Shared | None, wall: int, page: Page) -> None:
        """`queue`, `execute` and `forward` of what was asked beside a request, under its `rpc`, as far as it got."""
        computed = shared is not None and shared.forward is not None and r.row >= 0 and not r.masked
        key = r.path, r.model, r.version, bool(r.masked), shared is not None, computed
        stencil = self._stencils.get(key) or self._remember(key, lambda: _below_rpc(r, shared is not None, computed))
        state = self._encoding.state(r.tracestate) if r.tracestate else b""
        fresh = random.randbytes(24)
        ids: tuple[bytes, ...] = (r.trace_id, fresh[:8], r.span_id.to_bytes(8))
        times: tuple[int, ...] = (r.queued_ns + wall, left_ns + wall)
        integers: tuple[int, ...] = (r.queue_depth, r.priority)
        strings: tuple[str, ...] = ()
        extras: tuple[bytes, ...] = (state,)
        if shared is not None:
            ids += (fresh[8:16],)
            times += (r.settled_ns + wall,)
            integers += r.row, shared.rows, shared.retries
            strings = (shared.batch_id,)
            extras += (shared.to_batch + state,)
            if computed and shared.forward is not None:
                ids += (fresh[16:],)
                times += shared.forward
                integers += (shared.padded_tokens,)
                extras += (shared.to_forward + state,)
        waited_ms = (left_ns - r.queued_ns) / 1e6
        page.own.append(stencil.fill(ids, times, (waited_ms,), integers, strings, extras))
        page.spans += stencil.spans

    def _rider_stencil(self, r: RpcRecord, kept: str, batched: bool, computed: bool) -> Stencil:  # noqa: FBT001
        parts = bool(r.parent_id), bool(r.deadline_ns), bool(r.request_id), bool(r.queued_ns), batched, computed
        detour = _named(r.detour) if r.detour else ()
        key = r.method, r.model, r.version, r.path, r.code, r.reason, kept, bool(r.masked), parts, detour
        return self._stencils.get(key) or self._remember(key, lambda: self._rider_blanks(r, kept, batched, computed))

    def _rider_blanks(self, r: RpcRecord, kept: str, batched: bool, computed: bool) -> list[Blank]:  # noqa: FBT001
        return [
            self._rpc_blank(r, kept, Lane(r.model, r.version, _path(r)).attributes),
            *_below_rpc(r, batched, computed),
        ]

    def _rpc_blank(self, r: RpcRecord, kept: str, lane: Attributes) -> Blank:
        """With the stable RPC attributes of the semantic conventions."""
        constants: Attributes = (("rpc.system.name", "grpc"), ("rpc.method", r.method), *self._server)
        constants = (*constants, ("rpc.response.status_code", r.code), *lane)
        if r.reason:
            constants = (*constants, ("headrace.reason", r.reason))
        if r.detour:
            constants = (*constants, *_named(r.detour))
        if r.code in SERVER_ERRORS:
            constants = (*constants, ("error.type", r.code))
        request_id = {"headrace.request.id_hash": "request_id"} if r.request_id else {}
        deadline = {"headrace.deadline.ms": "deadline", "headrace.deadline.slack_ms": "slack"} if r.deadline_ns else {}
        return Blank(
            r.method,
            SERVER,
            _kept(constants, kept),
            ("trace", "rpc", "parent" if r.parent_id else ""),
            ("start", "end"),
            doubles=deadline,
            integers={"headrace.tokens": "tokens", "network.peer.port": "port"},
            strings={"network.peer.address": "address", **request_id},
            extra="state",
            error=r.code in SERVER_ERRORS,
            event=_event(r),
        )

    # A batch ------------------------------------------------------------------------------------------------------

    def _batch(self, batch: BatchRecord, kept: str, wall: int, page: Page) -> Shared:
        """`batch` with a link to every sampled member, and each attempt; returns what the members share."""
        trace_id, span_id = batch.trace_id, batch.span_id.to_bytes(8)
        members = [(m.trace_id, m.span_id.to_bytes(8)) for m in batch.members if m.sampled]
        links = self._encoding.links(members[: self._max_links], max(0, len(members) - self._max_links))
        batch_id = f"{batch.span_id:016x}"
        stencil = self._batch_stencil(batch, kept)
        times = batch.closed_ns + wall, batch.settled_ns + wall
        waited = ((batch.closed_ns - batch.oldest_ns) / 1e6,)
        size = batch.rows, batch.tokens
        page.own.append(stencil.fill((trace_id, span_id), times, waited, size, (batch_id,), (links,)))
        page.spans += 1
        forward_id = b""
        for dispatch in batch.dispatches:
            self._dispatch(batch, dispatch, wall, page)
            if dispatch.stages is not None:
                forward_id = self._replica(batch, dispatch, dispatch.stages, page)
        answered = batch.answered
        shared = batch.rows, max(0, len(batch.dispatches) - 1), batch_id, self._encoding.links([(trace_id, span_id)])
        if answered is None or answered.stages is None:
            return Shared(*shared, None)
        forward = answered.stages.copied_ns, answered.stages.computed_ns
        to_forward = self._encoding.links([(trace_id, forward_id)], remote=True)
        return Shared(*shared, forward, to_forward, answered.padded_tokens)

    def _batch_stencil(self, batch: BatchRecord, kept: str) -> Stencil:
        lane, failed = _lane(batch), bool(batch.dispatches) and batch.answered is None
        key = "batch", lane, batch.close_reason, kept, failed
        return self._stencils.get(key) or self._remember(
            key,
            lambda: [
                Blank(
                    "batch",
                    INTERNAL,
                    _kept((*lane.attributes, ("headrace.batch.close_reason", batch.close_reason)), kept),
                    ("trace", "batch", ""),
                    ("closed", "settled"),
                    doubles={"headrace.batch.oldest_ms": "oldest"},
                    integers={"headrace.batch.size": "rows", "headrace.tokens": "tokens"},
                    strings={"headrace.batch.id": "batch_id"},
                    extra="links",
                    error=failed,
                )
            ],
        )

    def _dispatch(self, batch: BatchRecord, dispatch: DispatchRecord, wall: int, page: Page) -> None:
        stencil = self._dispatch_stencil(_lane(batch), dispatch.error)
        ids = batch.trace_id, dispatch.span_id.to_bytes(8), batch.span_id.to_bytes(8)
        times = dispatch.start_ns + wall, dispatch.end_ns + wall
        sent = dispatch.attempt, dispatch.payload_bytes
        names = dispatch.replica.replica_id, f"{batch.span_id:016x}"
        page.own.append(stencil.fill(ids, times, (), sent, names))
        page.spans += 1

    def _dispatch_stencil(self, lane: Lane, error: str) -> Stencil:
        key = "dispatch", lane, error
        return self._stencils.get(key) or self._remember(
            key,
            lambda: [
                Blank(
                    "dispatch",
                    CLIENT,
                    _failed(lane.attributes, error),
                    ("trace", "dispatch", "batch"),
                    ("start", "end"),
                    integers={"headrace.attempt": "attempt", "headrace.payload.bytes": "bytes"},
                    strings={"headrace.replica.id": "replica", "headrace.batch.id": "batch_id"},
                    error=bool(error),
                )
            ],
        )

    # A batch at its replica, drawn from the stamps that came back -----------------------------------------------------

    def _replica(self, batch: BatchRecord, dispatch: DispatchRecord, stages: Stages, page: Page) -> bytes:
        """`replica.batch` and its stages, by the replica's own clock: never clamped into `dispatch`.

        Returns the span id of `forward`.
        """
        passed = [at for at in (stages.unpacked_ns, stages.copied_ns, stages.computed_ns, stages.fetched_ns) if at]
        stencil = self._replica_stencil(_lane(batch), dispatch, len(passed))
        fresh = random.randbytes(40)
        span_ids = [fresh[at : at + 8] for at in range(0, 40, 8)]
        ids = batch.trace_id, span_ids[0], dispatch.span_id.to_bytes(8), *span_ids[1 : 1 + len(passed)]
        times: tuple[int, ...] = (stages.received_ns, stages.packed_ns)
        if passed:
            times += (stages.started_ns, *passed)
        integers: tuple[int, ...] = (batch.rows, dispatch.expired)
        if len(passed) > FORWARD:
            integers += batch.tokens, dispatch.padded_tokens
        spans = page.replicas.setdefault(dispatch.replica, [])
        spans.append(stencil.fill(ids, times, (), integers, (dispatch.replica.replica_id,)))
        page.spans += stencil.spans
        return span_ids[1 + FORWARD]

    def _replica_stencil(self, lane: Lane, dispatch: DispatchRecord, stages: int) -> Stencil:
        replica = dispatch.replica
        key = "replica", lane, replica.device, replica.precision, dispatch.error, stages
        return self._stencils.get(key) or self._remember(key, lambda: _replica_blanks(lane, dispatch, stages))

    def _remember(self, key: Hashable, blanks: Callable[[], list[Blank]]) -> Stencil:
        if len(self._stencils) >= MAX_STENCILS:
            self._stencils.clear()
        stencil = self._stencils[key] = self._encoding.stencil(blanks())
        return stencil


STAGES: Final = (
    ("unpack", "started"),
    ("h2d", "unpacked"),
    ("forward", "copied"),
    ("d2h", "computed"),
    ("", "fetched"),
)
"""Each stage and the hole of its start; it ends where the next begins."""
FORWARD: Final = 2
"""The place of `forward` among them."""


def _path(r: RpcRecord) -> str:
    """In what capacity the request was answered; its `queue` and `execute` say in which it was asked."""
    return FALLBACK if r.detour and r.detour.reason and not r.reason else r.path


def _event(r: RpcRecord) -> tuple[str, str] | None:
    if r.reason:
        return None if r.queued_ns else ("headrace.shed", r.reason)
    return ("headrace.fallback", r.detour.reason) if r.detour and r.detour.reason else None


def _named(detour: Detour) -> Attributes:
    """What `rpc` says of it."""
    said = (
        ("headrace.fallback.reason", detour.reason),
        ("headrace.fallback.by", detour.by),
        ("headrace.fallback.error", detour.error),
        ("headrace.idempotency", detour.idempotency),
    )
    return tuple((name, value) for name, value in said if value)


def _to_original(detour: Detour, encoding: Encoding) -> bytes:
    """A link to the request whose answer this one was given."""
    if detour.original is None:
        return b""
    trace_id, span_id = detour.original
    return encoding.links([(trace_id, span_id.to_bytes(8))])


def _below_rpc(r: RpcRecord, batched: bool, computed: bool) -> list[Blank]:  # noqa: FBT001
    """`queue`, `execute` and `forward`, as far as it got."""
    lane = Lane(r.model, r.version, r.path).attributes
    blanks: list[Blank] = []
    if r.queued_ns:
        blanks.append(
            Blank(
                "queue",
                INTERNAL,
                lane,
                ("trace", "queue", "rpc"),
                ("queued", "closed"),
                doubles={"headrace.queue.ms": "waited"},
                integers={"headrace.queue.depth": "depth", "headrace.priority": "priority"},
                extra="state",
            )
        )
    if batched:
        blanks.append(
            Blank(
                "execute",
                INTERNAL,
                (*lane, ("headrace.masked", bool(r.masked))),
                ("trace", "execute", "rpc"),
                ("closed", "settled"),
                integers={
                    "headrace.batch.row": "row",
                    "headrace.batch.size": "rows",
                    "headrace.retries": "retries",
                },
                strings={"headrace.batch.id": "batch_id"},
                extra="links to batch",
            )
        )
    if computed:
        blanks.append(
            Blank(
                "forward",
                INTERNAL,
                lane,
                ("trace", "forward", "execute"),
                ("begun", "computed"),
                integers={"headrace.batch.size": "rows", "headrace.tokens.padded": "padded"},
                extra="links to forward",
            )
        )
    return blanks


def _replica_blanks(lane: Lane, dispatch: DispatchRecord, stages: int) -> list[Blank]:
    """`replica.batch` and as many of its stages as the batch got through."""
    blanks = [
        Blank(
            "replica.batch",
            SERVER,
            _failed((*lane.attributes, ("headrace.device", dispatch.replica.device)), dispatch.error),
            ("trace", "replica", "dispatch"),
            ("received", "packed"),
            integers={"headrace.batch.size": "rows", "headrace.rows.expired": "expired"},
            strings={"headrace.replica.id": "replica_id"},
            error=bool(dispatch.error),
        )
    ]
    for place in range(stages):
        (name, begun), (_, ended) = STAGES[place], STAGES[place + 1]
        constants, integers = lane.attributes, {}
        if place == FORWARD:
            constants = (*constants, ("headrace.precision", dispatch.replica.precision))
            integers = {"headrace.tokens": "tokens", "headrace.tokens.padded": "padded"}
        ids = ("trace", name, "replica")
        blanks.append(Blank(name, INTERNAL, constants, ids, (begun, ended), integers=integers))
    return blanks


def _lane(batch: BatchRecord) -> Lane:
    return Lane(batch.model, batch.version, batch.path)


def _kept(constants: Attributes, reason: str) -> Attributes:
    return (*constants, ("headrace.keep", reason)) if reason else constants


def _failed(constants: Attributes, error: str) -> Attributes:
    return (*constants, ("error.type", error)) if error else constants


@lru_cache(maxsize=4096)
def _peer(peer: str) -> tuple[str, int]:
    """(address, port) of `ipv4:127.0.0.1:5000`, `ipv6:%5B::1%5D:5000` or `unix:/path`."""
    _, _, rest = peer.partition(":")
    address, _, port = rest.rpartition(":")
    if not port.isdigit():
        return rest, 0
    return address.replace("%5B", "").replace("%5D", ""), int(port)
