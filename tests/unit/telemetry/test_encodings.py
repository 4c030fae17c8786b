"""Both encodings say what opentelemetry's own encoder says of the same span."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode
from tests.records import Telling, Told, batch_of, rider

from headrace.core.records import BatchRecord, RpcRecord
from headrace.telemetry.catalogue import Catalogue, Page
from headrace.telemetry.form import Blank, Encoding, Holes
from headrace.telemetry.otlp_json import JsonEncoding
from headrace.telemetry.otlp_protobuf import ProtobufEncoding

RESOURCE = (("service.name", "headrace-gateway"), ("n", 3), ("share", 0.5), ("on", True))
KINDS = {1: SpanKind.INTERNAL, 2: SpanKind.SERVER, 3: SpanKind.CLIENT}


def every_record() -> list[RpcRecord | BatchRecord]:
    masked = rider(3, code="CANCELLED", reason="Cancelled")
    record = batch_of(
        rider(1, parent_id=7, tracestate="vendor=x,other=y"), rider(2, request_id="", deadline_ns=0), masked
    )
    masked.masked = "Cancelled"
    return [
        record,
        batch_of(rider(4, code="INTERNAL", reason="ModelFailed"), answered=False),
        rider(5, code="UNAVAILABLE", reason="DeadlinePassed"),
        rider(6, code="INVALID_ARGUMENT", reason="InvalidInference", queued=False),
    ]


class Both:
    """Two encodings filled with the same values: what the catalogue tells, told twice."""

    def __init__(self, *encodings: Encoding) -> None:
        self.encodings = encodings
        self.filled: list[list[bytes]] = [[] for _ in encodings]
        self._extras: dict[bytes, list[bytes]] = {b"": [b""] * len(encodings)}

    def stencil(self, blanks: Sequence[Blank]) -> BothStencils:
        return BothStencils(self, blanks)

    def links(self, *told: Any, **more: Any) -> bytes:
        return self._name([encoding.links(*told, **more) for encoding in self.encodings])

    def state(self, tracestate: str) -> bytes:
        return self._name([encoding.state(tracestate) for encoding in self.encodings])

    def request(self, sections: Any) -> list[bytes]:
        raise NotImplementedError

    def _name(self, encoded: list[bytes]) -> bytes:
        name = f"<{len(self._extras)}>".encode()
        self._extras[name] = encoded
        return name

    def resolved(self, names: bytes, which: int) -> bytes:
        parts = names.replace(b"><", b">|<").split(b"|")
        return b"".join(self._extras[part][which] for part in parts)


class BothStencils:
    def __init__(self, both: Both, blanks: Sequence[Blank]) -> None:
        self._both = both
        self._stencils = [encoding.stencil(blanks) for encoding in both.encodings]
        self.spans, self.holes = len(blanks), Holes.of(blanks)

    def fill(self, *groups: Any) -> bytes:
        given = (*groups, *[()] * (6 - len(groups)))
        for which, stencil in enumerate(self._stencils):
            extras = tuple(self._both.resolved(extra, which) for extra in given[5])
            self._both.filled[which].append(stencil.fill(*given[:5], extras))
        return b""


def tell(encoding: Encoding, max_links: int = 512) -> None:
    random.seed(5)  # span ids are drawn while telling: the same for everyone who is told
    catalogue = Catalogue(encoding, (("server.address", "::1"), ("server.port", 8001)), max_links)
    for record in every_record():
        if isinstance(record, BatchRecord):
            catalogue.family(record, ["slow"] * len(record.members), Page())
        else:
            catalogue.single(record, "", Page())


def encoded(max_links: int = 512) -> tuple[bytes, bytes]:
    """Everything as protobuf, and as JSON."""
    both = Both(ProtobufEncoding(), JsonEncoding())
    tell(both, max_links)
    pieces = [e.request([(RESOURCE, spans)]) for e, spans in zip(both.encodings, both.filled, strict=True)]
    protobuf, line = (b"".join(some) for some in pieces)
    return protobuf, line


def told() -> list[Told]:
    telling = Telling()
    tell(telling)
    return telling.spans


def by_sdk(span: Told) -> ReadableSpan:
    """The same span as the SDK would have made it."""

    def context(trace_id: bytes, span_id: int, *, remote: bool, state: str = "") -> SpanContext:
        entries = [tuple(entry.split("=")) for entry in state.split(",") if entry]
        trace_state = TraceState(entries)  # type: ignore[arg-type]
        return SpanContext(int.from_bytes(trace_id), span_id, remote, TraceFlags(1), trace_state)

    blank = span.blank
    parent = context(span.trace_id, span.parent_id, remote=blank.kind == 2) if span.parent_id else None
    links = [Link(context(t, int.from_bytes(s), remote=span.links_are_remote)) for t, s in span.links]
    events = [Event(blank.event[0], {"reason": blank.event[1]}, span.end_ns)] if blank.event else []
    return ReadableSpan(
        name=blank.name,
        context=context(span.trace_id, span.span_id, remote=False, state=span.state),
        parent=parent,
        resource=Resource(dict(RESOURCE)),
        attributes=span.attributes,
        events=events,
        links=links,
        kind=KINDS[blank.kind],
        status=Status(StatusCode.ERROR) if blank.error else Status(StatusCode.UNSET),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=InstrumentationScope("headrace"),
    )


def sorted_attributes(request: ExportTraceServiceRequest) -> ExportTraceServiceRequest:
    """Attributes are a map: their order says nothing."""
    for resource_spans in request.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                span.attributes.sort(key=lambda attribute: attribute.key)
    return request


def test_spliced_bytes_decode_to_what_the_sdk_encodes() -> None:
    spans = told()

    ours = ExportTraceServiceRequest.FromString(encoded()[0])
    sdks = encode_spans([by_sdk(span) for span in spans])

    assert len(spans) > 25
    assert sorted_attributes(ours) == sorted_attributes(sdks)


def test_a_json_line_says_the_same_in_otlps_own_mapping() -> None:
    spans = told()

    line = encoded()[1]
    sdks = encode_spans([by_sdk(span) for span in spans]).resource_spans[0]

    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    tree = json.loads(line)["resourceSpans"][0]
    assert attributes(tree["resource"]) == dict(RESOURCE)
    for proto, stored in zip(sdks.scope_spans[0].spans, tree["scopeSpans"][0]["spans"], strict=True):
        assert stored["name"] == proto.name
        assert stored["kind"] == proto.kind
        assert stored["flags"] == proto.flags
        assert stored["traceId"] == proto.trace_id.hex()
        assert stored["spanId"] == proto.span_id.hex()
        assert stored.get("parentSpanId", "") == proto.parent_span_id.hex()
        assert stored.get("traceState", "") == proto.trace_state
        assert stored["startTimeUnixNano"] == str(proto.start_time_unix_nano)
        assert stored["endTimeUnixNano"] == str(proto.end_time_unix_nano)
        assert stored.get("status", {}).get("code", 0) == proto.status.code
        assert attributes(stored) == {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in proto.attributes}
        linked = [(x["traceId"], x["spanId"], x["flags"]) for x in stored.get("links", [])]
        assert linked == [(x.trace_id.hex(), x.span_id.hex(), x.flags) for x in proto.links]
        happened = [(e["name"], e["timeUnixNano"], attributes(e)) for e in stored.get("events", [])]
        wanted = [
            (e.name, str(e.time_unix_nano), {a.key: a.value.string_value for a in e.attributes}) for e in proto.events
        ]
        assert happened == wanted


def attributes(holder: dict[str, Any]) -> dict[str, Any]:
    values = {entry["key"]: entry["value"] for entry in holder.get("attributes", ())}
    assert len(values) == len(holder.get("attributes", ()))
    return {key: int(v["intValue"]) if "intValue" in v else next(iter(v.values())) for key, v in values.items()}


def test_links_that_were_cut_are_counted_in_both() -> None:
    protobuf, line = encoded(max_links=1)

    ours = ExportTraceServiceRequest.FromString(protobuf).resource_spans[0].scope_spans[0].spans
    stored = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert [span.dropped_links_count for span in ours if span.name == "batch"] == [2, 0]
    assert [span.get("droppedLinksCount", 0) for span in stored if span["name"] == "batch"] == [2, 0]


names = st.text(st.characters(codec="utf-8"), max_size=40)


@given(
    names,
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    st.lists(names, max_size=3),
)
def test_any_value_survives_both(name: str, doubles: list[float], integers: list[int], strings: list[str]) -> None:
    """Percent signs, quotes, control characters, negative and huge numbers: the templates must not trip over any."""

    def holes(letter: str, values: Sequence[Any]) -> dict[str, str]:
        return {f"{letter}{n}%": f"{letter}{n}" for n in range(len(values))}

    typed = holes("d", doubles), holes("i", integers), holes("s", strings)
    blank = Blank(name, 1, (("constant", name),), ("t", "s", "p"), ("b", "e"), *typed, extra="x")
    values = (b"t" * 16, b"s" * 8, b"p" * 8), (3, 4), tuple(doubles), tuple(integers), tuple(strings)
    wanted = dict(zip([key for some in typed for key in some], (*doubles, *integers, *strings), strict=True))

    requests = []
    for encoding in (ProtobufEncoding(), JsonEncoding()):
        filled = encoding.stencil([blank, blank]).fill(*values, (encoding.state(name),))
        requests.append(b"".join(encoding.request([(RESOURCE, [filled])])))

    ours = ExportTraceServiceRequest.FromString(requests[0]).resource_spans[0].scope_spans[0].spans
    stored = json.loads(requests[1])["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert len(ours) == len(stored) == 2
    for proto, line in zip(ours, stored, strict=True):
        assert proto.name == line["name"] == name
        assert proto.trace_state == line["traceState"] == name
        found = {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in proto.attributes}
        assert found == attributes(line) == {"constant": name, **wanted}
