"""Proves of a stream of OTLP spans that every inference in it is told once, whole, and linked both ways.

`check` raises AssertionError with the first thing that is wrong, and returns what it has seen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

MODEL_INFER = "inference.GRPCInferenceService/ModelInfer"
STAGES = ("unpack", "h2d", "forward", "d2h")
CLOCKS_NS = 2_000_000
"""How far the wall clocks of two processes of one machine may be apart: each is anchored once a minute."""

Key = tuple[bytes, bytes]


@dataclass
class Seen:
    """What the stream held."""

    codes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    batches: int = 0
    members: int = 0
    left_queue: int = 0
    """Requests that waited and never joined a batch."""
    masked: int = 0
    lost_dispatches: Counter[str] = field(default_factory=Counter)
    """Attempts that failed, by error."""
    kept: Counter[str] = field(default_factory=Counter)
    rpcs: dict[bytes, Span] = field(default_factory=dict)
    """By trace."""


class Checker:
    def __init__(self, spans: Iterable[tuple[str, Span]]) -> None:
        self.services: dict[Key, str] = {}
        self.spans: dict[Key, Span] = {}
        self.children: dict[Key, list[Span]] = defaultdict(list)
        for service, span in spans:
            key = span.trace_id, span.span_id
            assert key not in self.spans, f"{span.name} was told twice"
            self.spans[key], self.services[key] = span, service
            if span.parent_span_id:
                self.children[span.trace_id, span.parent_span_id].append(span)
        self.seen = Seen()

    def check(self) -> Seen:
        for span in self.spans.values():
            assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano, f"{span.name} ends before it begins"
            if span.name == MODEL_INFER:
                self._check_rpc(span)
            else:
                assert span.name == "batch" or self._parent(span), f"{span.name} is an orphan"
        for span in self.spans.values():
            if span.name == "batch":
                self._check_batch(span)
        return self.seen

    def _parent(self, span: Span) -> Span | None:
        return self.spans.get((span.trace_id, span.parent_span_id))

    # A request --------------------------------------------------------------------------------------------------------

    def _check_rpc(self, rpc: Span) -> None:
        assert rpc.trace_id not in self.seen.rpcs, "two requests in one trace: every caller here has its own"
        self.seen.rpcs[rpc.trace_id] = rpc
        told = attributes(rpc)
        code, reason = told["rpc.response.status_code"], told.get("headrace.reason", "")
        self.seen.codes[code] += 1
        self.seen.reasons[reason] += 1
        self.seen.kept[told.get("headrace.keep", "")] += 1
        assert (code == "OK") == (not reason)
        below = {span.name: span for span in self.children[rpc.trace_id, rpc.span_id]}
        assert len(below) == len(self.children[rpc.trace_id, rpc.span_id]), "a request has a span twice"
        for span in below.values():
            assert within(span, rpc), f"{span.name} is not within its rpc"
        if code == "OK":
            assert set(below) == {"queue", "execute"}
        elif "execute" in below:
            assert "queue" in below
        if "execute" in below:
            self._check_execute(rpc, below["queue"], below["execute"], code)
        elif "queue" in below:
            self.seen.left_queue += 1
        else:
            assert [event.name for event in rpc.events] == ["headrace.shed"] or code == "CANCELLED"

    def _check_execute(self, rpc: Span, queue: Span, execute: Span, code: str) -> None:
        assert queue.end_time_unix_nano == execute.start_time_unix_nano
        (link,) = execute.links
        batch = self.spans.get((link.trace_id, link.span_id))
        assert batch is not None, "execute links to a batch that is not there"
        assert (rpc.trace_id, rpc.span_id) in {(x.trace_id, x.span_id) for x in batch.links}, (
            "its batch does not know it"
        )
        assert attributes(execute)["headrace.batch.id"] == batch.span_id.hex()
        assert execute.start_time_unix_nano == batch.start_time_unix_nano
        copies = self.children[execute.trace_id, execute.span_id]
        if code == "OK":
            assert len(copies) == 1, "an answered request does not reach the forward pass"
        if attributes(execute)["headrace.masked"]:
            assert not copies
        for copy in copies:  # a caller may go away in the moment between its answer and its end
            self._check_copy(execute, copy, batch)

    def _check_copy(self, execute: Span, copy: Span, batch: Span) -> None:
        (link,) = copy.links
        forward = self.spans.get((link.trace_id, link.span_id))
        assert copy.name == "forward"
        assert forward is not None, "its forward pass links to one that is not there"
        assert forward.trace_id == batch.trace_id
        assert copy.start_time_unix_nano == forward.start_time_unix_nano
        assert copy.end_time_unix_nano == forward.end_time_unix_nano
        assert within(copy, execute, CLOCKS_NS)

    # A batch ----------------------------------------------------------------------------------------------------------

    def _check_batch(self, batch: Span) -> None:
        told = attributes(batch)
        self.seen.batches += 1
        assert not batch.parent_span_id
        assert batch.links, "a batch without members"
        kept = [self._check_member(batch, link) for link in batch.links]
        assert any(kept) == ("headrace.keep" in told), "a batch and its members disagree on being kept"
        dispatches = self.children[batch.trace_id, batch.span_id]
        assert {span.name for span in dispatches} <= {"dispatch"}
        attempts = sorted(attributes(span)["headrace.attempt"] for span in dispatches)
        assert attempts == list(range(1, len(dispatches) + 1))
        for dispatch in dispatches:
            assert within(dispatch, batch)
            self._check_dispatch(dispatch)

    def _check_member(self, batch: Span, link: Span.Link) -> bool:
        rpc = self.spans.get((link.trace_id, link.span_id))
        assert rpc is not None, "a batch links to a request that is not there"
        executes = [s for s in self.children[link.trace_id, link.span_id] if s.name == "execute"]
        (execute,) = executes
        self.seen.members += 1
        self.seen.masked += attributes(execute)["headrace.masked"]
        assert [x.span_id for x in execute.links] == [batch.span_id]
        return "headrace.keep" in attributes(rpc)

    def _check_dispatch(self, dispatch: Span) -> None:
        error = attributes(dispatch).get("error.type", "")
        assert (dispatch.status.code == 2) == bool(error)
        below = self.children[dispatch.trace_id, dispatch.span_id]
        if error:
            self.seen.lost_dispatches[error] += 1
        if error in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"):
            assert not below, "a lost replica's batch does not end at dispatch"
            return
        (at_replica,) = below
        assert at_replica.name == "replica.batch"
        assert self.services[at_replica.trace_id, at_replica.span_id] == "headrace-replica"
        assert within(at_replica, dispatch, CLOCKS_NS)
        stages = {span.name: span for span in self.children[at_replica.trace_id, at_replica.span_id]}
        assert all(within(span, at_replica) for span in stages.values())
        if not error:
            assert set(stages) == set(STAGES)
            borders = [stages[name].start_time_unix_nano for name in STAGES]
            assert borders == sorted(borders)


def check(spans: Iterable[tuple[str, Span]]) -> Seen:
    return Checker(spans).check()


def within(inner: Span, outer: Span, tolerance_ns: int = 0) -> bool:
    return (
        outer.start_time_unix_nano - tolerance_ns <= inner.start_time_unix_nano
        and inner.end_time_unix_nano <= outer.end_time_unix_nano + tolerance_ns
    )


def attributes(span: Span) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}
