"""Both encodings say what opentelemetry's own encoder says of the same span."""

from __future__ import annotations

import json
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
from headrace.telemetry.form import Encoding, Form
from headrace.telemetry.otlp_json import JsonEncoding
from headrace.telemetry.otlp_protobuf import ProtobufEncoding

RESOURCE = (("service.name", "headrace-gateway"), ("n", 3), ("share", 0.5), ("on", True))
KINDS = {1: SpanKind.INTERNAL, 2: SpanKind.SERVER, 3: SpanKind.CLIENT}


def every_record() -> list[RpcRecord | BatchRecord]:
    masked = rider(3, code="CANCELLED", reason="Cancelled")
    record = batch_of(
        rider(1, parent_id=7, tracestate="vendor=x,other=y"), rider(2, request_id="", deadline_ns=0), masked
    )
    masked.masked = True
    return [
        record,
        batch_of(rider(4, code="INTERNAL", reason="ModelFailed"), answered=False),
        rider(5, code="UNAVAILABLE", reason="DeadlinePassed"),
        rider(6, code="INVALID_ARGUMENT", reason="InvalidInference", queued=False),
    ]


def encode(encoding: Encoding, spans: Sequence[Told]) -> bytes:
    def links(span: Told) -> bytes:
        return encoding.links(span.links, span.dropped_links, remote=span.links_are_remote) if span.links else b""

    encoded = [encoding.span(*span[:7], links(span), span.state) for span in spans]
    return encoding.request([(RESOURCE, encoded)])


def told() -> list[Told]:
    telling = Telling()
    catalogue = Catalogue(telling, (("server.address", "::1"), ("server.port", 8001)), 512)
    for record in every_record():
        if isinstance(record, BatchRecord):
            catalogue.family(record, ["slow"] * len(record.members), Page())
        else:
            catalogue.single(record, "", Page())
    return telling.spans


def by_sdk(span: Told) -> ReadableSpan:
    """The same span as the SDK would have made it."""

    def context(trace_id: bytes, span_id: int, *, remote: bool, state: str = "") -> SpanContext:
        entries = [tuple(entry.split("=")) for entry in state.split(",") if entry]
        trace_state = TraceState(entries)  # type: ignore[arg-type]
        return SpanContext(int.from_bytes(trace_id), span_id, remote, TraceFlags(1), trace_state)

    form = span.form
    parent = context(span.trace_id, span.parent_id, remote=form.kind == 2) if span.parent_id else None
    links = [Link(context(*target, remote=span.links_are_remote)) for target in span.links]
    events = [Event(form.event[0], {"reason": form.event[1]}, span.end_ns)] if form.event else []
    return ReadableSpan(
        name=form.name,
        context=context(span.trace_id, span.span_id, remote=False, state=span.state),
        parent=parent,
        resource=Resource(dict(RESOURCE)),
        attributes=span.attributes,
        events=events,
        links=links,
        kind=KINDS[form.kind],
        status=Status(StatusCode.ERROR) if form.error else Status(StatusCode.UNSET),
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

    ours = ExportTraceServiceRequest.FromString(encode(ProtobufEncoding(), spans))
    sdks = encode_spans([by_sdk(span) for span in spans])

    assert len(spans) > 25
    assert sorted_attributes(ours) == sorted_attributes(sdks)


def test_a_json_line_says_the_same_in_otlps_own_mapping() -> None:
    spans = told()

    line = encode(JsonEncoding(), spans)
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
    span = next(span for span in told() if span.name == "batch")._replace(dropped_links=300)

    ours = ExportTraceServiceRequest.FromString(encode(ProtobufEncoding(), [span]))
    line = json.loads(encode(JsonEncoding(), [span]))

    assert ours.resource_spans[0].scope_spans[0].spans[0].dropped_links_count == 300
    assert line["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["droppedLinksCount"] == 300


names = st.text(st.characters(codec="utf-8"), max_size=40)


@given(
    names,
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    st.lists(names, max_size=3),
)
def test_any_value_survives_both(name: str, doubles: list[float], integers: list[int], strings: list[str]) -> None:
    """Percent signs, quotes, control characters, negative and huge numbers: the templates must not trip over any."""
    keys = [f"k{n}%" for n in range(9)]
    form = Form(
        name,
        1,
        (("constant", name),),
        tuple(keys[: len(doubles)]),
        tuple(keys[3 : 3 + len(integers)]),
        tuple(keys[6 : 6 + len(strings)]),
    )
    span = Told(form, b"t" * 16, 1, 2, 3, 4, (*doubles, *integers, *strings), (), 0, False, name)

    ours = ExportTraceServiceRequest.FromString(encode(ProtobufEncoding(), [span])).resource_spans[0]
    stored = json.loads(encode(JsonEncoding(), [span]))["resourceSpans"][0]["scopeSpans"][0]["spans"][0]

    proto = ours.scope_spans[0].spans[0]
    assert proto.name == stored["name"] == name
    assert proto.trace_state == stored.get("traceState", "") == name
    found = {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in proto.attributes}
    assert found == attributes(stored) == span.attributes
