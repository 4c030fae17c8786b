"""The span catalogue: which spans a record becomes, who is their parent, what they link and say.

Runs off the event loop, in the tracer's thread. docs/tracing.md is this file as a table. Never here: amounts, ids
of cards or accounts, features, scores.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from headrace.core.records import BatchRecord, DispatchRecord, ReplicaIdentity, RpcRecord, Stages
from headrace.telemetry import clock
from headrace.telemetry.context import new_id
from headrace.telemetry.form import CLIENT, INTERNAL, SERVER, Attributes, Encoding, Form
from headrace.telemetry.keep import strongest

SERVER_ERRORS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""Codes that make a server's span an error; a refusal that is the caller's fault does not."""
MAX_FORMS: Final = 4096


@dataclass(slots=True)
class Page:
    """Encoded spans that leave together: the gateway's own, and those it draws for each replica."""

    own: list[bytes] = field(default_factory=list)
    replicas: dict[ReplicaIdentity, list[bytes]] = field(default_factory=dict)

    @property
    def spans(self) -> int:
        return len(self.own) + sum(map(len, self.replicas.values()))


@dataclass(frozen=True, slots=True)
class _Forward:
    """What every rider of one batch has in common in its own copy of `forward`."""

    start_ns: int
    end_ns: int
    links: bytes
    values: tuple[int, int]


class Catalogue:
    """Writes families and single requests as spans. `server`: this process's address and port."""

    def __init__(self, encoding: Encoding, server: Attributes, max_links: int) -> None:
        self._encoding = encoding
        self._server = server
        self._max_links = max_links
        self._forms: dict[Hashable, Form] = {}

    def single(self, record: RpcRecord, kept: str, page: Page) -> None:
        """A request that never joined a batch: `rpc`, and `queue` if it got so far."""
        wall = clock.offset_ns()
        self._rpc(record, kept, wall, page)
        if record.queued_ns:
            form = self._lane_form("queue", record.model, record.version, "primary")
            ids = record.trace_id, new_id(), record.span_id
            waited = (record.settled_ns - record.queued_ns) / 1e6, record.queue_depth, record.priority
            times = record.queued_ns + wall, record.settled_ns + wall
            page.own.append(self._encoding.span(form, *ids, *times, waited, b"", record.tracestate))

    def family(self, batch: BatchRecord, kept: list[str], page: Page) -> None:
        """A batch, its attempts, what its replicas did, and the spans of every sampled member.

        `kept`: one reason a member, as Keeper gives them.
        """
        wall = clock.offset_ns()
        encode, out = self._encoding.span, page.own.append
        forward = self._batch(batch, kept, wall, page)
        # What the members share is made once: at a hundred batches a second this loop is most of the tracer's work.
        lane = batch.model, batch.version, batch.path
        queue, copy = self._lane_form("queue", *lane), self._lane_form("forward", *lane)
        execute, masked = self._execute_form(*lane, masked=False), self._execute_form(*lane, masked=True)
        to_batch = self._encoding.links([(batch.trace_id, batch.span_id)])
        retries, batch_id = max(0, len(batch.dispatches) - 1), f"{batch.span_id:016x}"
        closed = batch.closed_ns + wall
        for member, reason in zip(batch.members, kept, strict=True):
            if not member.sampled:
                continue
            self._rpc(member, reason, wall, page)
            trace_id, rpc_id, state, execute_id = member.trace_id, member.span_id, member.tracestate, new_id()
            waited = (batch.closed_ns - member.queued_ns) / 1e6, member.queue_depth, member.priority
            out(encode(queue, trace_id, new_id(), rpc_id, member.queued_ns + wall, closed, waited, b"", state))
            form = masked if member.masked else execute
            place = member.row, batch.rows, retries, batch_id
            out(encode(form, trace_id, execute_id, rpc_id, closed, member.settled_ns + wall, place, to_batch, state))
            if forward is not None and member.row >= 0 and not member.masked:
                times = forward.start_ns, forward.end_ns
                out(encode(copy, trace_id, new_id(), execute_id, *times, forward.values, forward.links, state))

    # A request ----------------------------------------------------------------------------------------------------

    def _rpc(self, record: RpcRecord, kept: str, wall: int, page: Page) -> None:
        address, port = _peer(record.peer)
        values: tuple[float | int | str, ...] = (record.tokens, port, address)
        if record.request_id:
            values = (*values, record.request_id)
        if record.deadline_ns:
            given = (record.deadline_ns - record.start_ns) / 1e6
            values = (given, (record.deadline_ns - record.end_ns) / 1e6, *values)
        page.own.append(
            self._encoding.span(
                self._rpc_form(record, kept),
                record.trace_id,
                record.span_id,
                record.parent_id,
                record.start_ns + wall,
                record.end_ns + wall,
                values,
                b"",
                record.tracestate,
            )
        )

    # A batch ------------------------------------------------------------------------------------------------------

    def _batch(self, batch: BatchRecord, kept: list[str], wall: int, page: Page) -> _Forward | None:
        """`batch` with a link to every sampled member, and each attempt; returns what riders show of `forward`."""
        members = [(member.trace_id, member.span_id) for member in batch.members if member.sampled]
        links = self._encoding.links(members[: self._max_links], max(0, len(members) - self._max_links))
        reason = strongest(kept)
        page.own.append(
            self._encoding.span(
                self._batch_form(batch, reason),
                batch.trace_id,
                batch.span_id,
                0,
                batch.closed_ns + wall,
                batch.settled_ns + wall,
                (
                    (batch.closed_ns - batch.oldest_ns) / 1e6,
                    batch.rows,
                    batch.tokens,
                    f"{batch.span_id:016x}",
                ),
                links,
            )
        )
        forward = None
        for dispatch in batch.dispatches:
            self._dispatch(batch, dispatch, wall, page)
            if dispatch.stages is not None:
                forward = self._replica(batch, dispatch, dispatch.stages, page)
        return forward if batch.answered else None

    def _dispatch(self, batch: BatchRecord, dispatch: DispatchRecord, wall: int, page: Page) -> None:
        page.own.append(
            self._encoding.span(
                self._dispatch_form(batch, dispatch.error),
                batch.trace_id,
                dispatch.span_id,
                batch.span_id,
                dispatch.start_ns + wall,
                dispatch.end_ns + wall,
                (dispatch.attempt, dispatch.payload_bytes, dispatch.replica.replica_id, f"{batch.span_id:016x}"),
            )
        )

    # A batch at its replica, drawn from the stamps that came back ---------------------------------------------------

    def _replica(self, batch: BatchRecord, dispatch: DispatchRecord, stages: Stages, page: Page) -> _Forward:
        """`replica.batch` and its stages, by the replica's own clock: never clamped into `dispatch`."""
        spans = page.replicas.setdefault(dispatch.replica, [])
        replica_id, forward_id = new_id(), new_id()
        form = self._replica_form(batch, dispatch)
        ids = batch.trace_id, replica_id, dispatch.span_id
        whole = batch.rows, dispatch.expired, dispatch.replica.replica_id
        spans.append(self._encoding.span(form, *ids, stages.received_ns, stages.packed_ns, whole))
        computed = batch.tokens, dispatch.padded_tokens
        for name, span_id, start_ns, end_ns in (
            ("unpack", new_id(), stages.started_ns, stages.unpacked_ns),
            ("h2d", new_id(), stages.unpacked_ns, stages.copied_ns),
            ("forward", forward_id, stages.copied_ns, stages.computed_ns),
            ("d2h", new_id(), stages.computed_ns, stages.fetched_ns),
        ):
            if end_ns:
                form = self._stage_form(name, batch, dispatch.replica.precision)
                ids = batch.trace_id, span_id, replica_id
                spans.append(self._encoding.span(form, *ids, start_ns, end_ns, computed if name == "forward" else ()))
        links = self._encoding.links([(batch.trace_id, forward_id)], remote=True)
        return _Forward(stages.copied_ns, stages.computed_ns, links, (batch.rows, dispatch.padded_tokens))

    # Forms: made once, kept by what tells them apart ----------------------------------------------------------------

    def _rpc_form(self, record: RpcRecord, kept: str) -> Form:
        with_deadline, with_id = bool(record.deadline_ns), bool(record.request_id)
        lane = record.method, record.model, record.version
        key = (*lane, record.code, record.reason, kept, with_deadline, with_id, not record.queued_ns)
        if form := self._forms.get(key):
            return form
        constants: Attributes = (("rpc.system.name", "grpc"), ("rpc.method", record.method), *self._server)
        constants = (*constants, ("rpc.response.status_code", record.code), *_lane(*lane[1:], "primary"))
        if record.reason:
            constants = (*constants, ("headrace.reason", record.reason))
        if record.code in SERVER_ERRORS:
            constants = (*constants, ("error.type", record.code))
        form = Form(
            record.method,
            SERVER,
            _kept(constants, kept),
            doubles=("headrace.deadline.ms", "headrace.deadline.slack_ms") if with_deadline else (),
            integers=("headrace.tokens", "network.peer.port"),
            strings=("network.peer.address", *(("headrace.request.id",) if with_id else ())),
            error=record.code in SERVER_ERRORS,
            event=("headrace.shed", record.reason) if record.reason and not record.queued_ns else None,
        )
        return self._remember(key, form)

    def _lane_form(self, name: str, model: str, version: str, path: str) -> Form:
        """`queue`, or a rider's `forward`."""
        key = name, model, version, path
        if form := self._forms.get(key):
            return form
        form = Form(name, INTERNAL, _lane(model, version, path))
        if name == "queue":
            form.doubles, form.integers = ("headrace.queue.ms",), ("headrace.queue.depth", "headrace.priority")
        else:
            form.integers = "headrace.batch.size", "headrace.tokens.padded"
        return self._remember(key, form)

    def _execute_form(self, model: str, version: str, path: str, *, masked: bool) -> Form:
        key = "execute", model, version, path, masked
        if form := self._forms.get(key):
            return form
        constants = (*_lane(model, version, path), ("headrace.masked", masked))
        integers = "headrace.batch.row", "headrace.batch.size", "headrace.retries"
        form = Form("execute", INTERNAL, constants, integers=integers, strings=("headrace.batch.id",))
        return self._remember(key, form)

    def _batch_form(self, batch: BatchRecord, kept: str) -> Form:
        failed = bool(batch.dispatches) and batch.answered is None
        key = "batch", batch.model, batch.version, batch.path, batch.close_reason, kept, failed
        if form := self._forms.get(key):
            return form
        reason = ("headrace.batch.close_reason", batch.close_reason)
        form = Form(
            "batch",
            INTERNAL,
            _kept((*_lane(batch.model, batch.version, batch.path), reason), kept),
            doubles=("headrace.batch.oldest_ms",),
            integers=("headrace.batch.size", "headrace.tokens"),
            strings=("headrace.batch.id",),
            error=failed,
        )
        return self._remember(key, form)

    def _dispatch_form(self, batch: BatchRecord, error: str) -> Form:
        key = "dispatch", batch.model, batch.version, batch.path, error
        if form := self._forms.get(key):
            return form
        constants = _lane(batch.model, batch.version, batch.path)
        form = Form(
            "dispatch",
            CLIENT,
            (*constants, ("error.type", error)) if error else constants,
            integers=("headrace.attempt", "headrace.payload.bytes"),
            strings=("headrace.replica.id", "headrace.batch.id"),
            error=bool(error),
        )
        return self._remember(key, form)

    def _replica_form(self, batch: BatchRecord, dispatch: DispatchRecord) -> Form:
        key = "replica.batch", batch.model, batch.version, batch.path, dispatch.replica.device, dispatch.error
        if form := self._forms.get(key):
            return form
        lane = _lane(batch.model, batch.version, batch.path)
        constants = (*lane, ("headrace.device", dispatch.replica.device))
        form = Form(
            "replica.batch",
            SERVER,
            (*constants, ("error.type", dispatch.error)) if dispatch.error else constants,
            integers=("headrace.batch.size", "headrace.rows.expired"),
            strings=("headrace.replica.id",),
            error=bool(dispatch.error),
        )
        return self._remember(key, form)

    def _stage_form(self, name: str, batch: BatchRecord, precision: str) -> Form:
        key = "stage", name, batch.model, batch.version, batch.path, precision
        if form := self._forms.get(key):
            return form
        form = Form(name, INTERNAL, _lane(batch.model, batch.version, batch.path))
        if name == "forward":
            form.constants = (*form.constants, ("headrace.precision", precision))
            form.integers = "headrace.tokens", "headrace.tokens.padded"
        return self._remember(key, form)

    def _remember(self, key: Hashable, form: Form) -> Form:
        if len(self._forms) >= MAX_FORMS:
            self._forms.clear()
        self._forms[key] = form
        return form


def _lane(model: str, version: str, path: str) -> Attributes:
    return ("headrace.model.name", model), ("headrace.model.version", version), ("headrace.path", path)


def _kept(constants: Attributes, reason: str) -> Attributes:
    return (*constants, ("headrace.keep", reason)) if reason else constants


@lru_cache(maxsize=4096)
def _peer(peer: str) -> tuple[str, int]:
    """(address, port) of `ipv4:127.0.0.1:5000`, `ipv6:%5B::1%5D:5000` or `unix:/path`."""
    _, _, rest = peer.partition(":")
    address, _, port = rest.rpartition(":")
    if not port.isdigit():
        return rest, 0
    return address.replace("%5B", "").replace("%5D", ""), int(port)
