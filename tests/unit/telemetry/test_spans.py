"""Records become the right spans, and both encodings say the same as opentelemetry-proto does."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from headrace.config import TelemetrySettings
from headrace.core.records import BatchRecord, DispatchRecord, ReplicaRecord, RpcRecord
from headrace.telemetry import catalogue, context, otlp, reading, tracing
from headrace.telemetry.tracing import Tracer

TRACE = bytes(range(16))


def rider(number: int = 1, *, code: str = "OK", reason: str = "", queued: bool = True) -> RpcRecord:
    return RpcRecord(
        trace_id=TRACE[:-1] + bytes([number]),
        span_id=1000 + number,
        parent_id=0,
        sampled=True,
        start_ns=1_000_000,
        method="inference.GRPCInferenceService/ModelInfer",
        model="fraud-tx",
        version="1",
        request_id='é"1',
        rows=1,
        tokens=40,
        queued_ns=1_100_000 if queued else 0,
        closed_ns=2_000_000 if queued and not reason else 0,
        settled_ns=3_000_000,
        end_ns=3_500_000,
        deadline_ns=9_000_000,
        code=code,
        reason=reason,
    )


def batch_of(*members: RpcRecord) -> BatchRecord:
    record = BatchRecord(
        trace_id=b"b" * 16,
        span_id=77,
        model="fraud-tx",
        version="1",
        path="primary",
        closed_ns=2_000_000,
        close_reason="slot",
        oldest_ns=1_100_000,
        rows=len(members),
        tokens=40 * len(members),
        members=list(members),
        dispatches=[
            DispatchRecord(5, 1, "replica-a", 2_050_000, 2_500_000, 900, "UNAVAILABLE"),
            DispatchRecord(6, 2, "replica-b", 2_550_000, 2_900_000, 900),
        ],
        settled_ns=3_000_000,
        forward_wall_ns=(111, 222),
        forward_span_id=88,
        padded_tokens=64,
    )
    for member in members:
        member.batch = record
    return record


def replica_record() -> ReplicaRecord:
    return ReplicaRecord(
        b"b" * 16, 6, 87, 88, True, "replica-b", "fraud-tx", "1", "cpu", 100, 101, 105, 111, 222, 230, 2, 80, 64, 0
    )


def every_span() -> list[catalogue.Span]:
    members = [rider(1), rider(2)]
    batch = batch_of(*members)
    return [
        *(span for member in members for span in catalogue.rpc_spans(member)),
        *catalogue.batch_spans(batch),
        *catalogue.replica_spans(replica_record()),
        *catalogue.rpc_spans(rider(3, code="UNAVAILABLE", reason="DeadlinePassed")),
        *catalogue.rpc_spans(rider(4, code="INVALID_ARGUMENT", reason="InvalidInference", queued=False)),
    ]


def test_a_riders_trace_reaches_the_forward_pass_and_links_its_batch() -> None:
    member = rider()
    batch_of(member)

    rpc, queue, execute, forward = catalogue.rpc_spans(member)

    assert [s.shape.name for s in (queue, execute, forward)] == ["queue", "execute", "forward"]
    assert queue.parent_id == execute.parent_id == rpc.span_id
    assert forward.parent_id == execute.span_id
    assert execute.links == ((b"b" * 16, 77),)
    assert forward.links == ((b"b" * 16, 88),)
    assert (forward.start_ns, forward.end_ns) == (111, 222)


def test_a_batch_links_every_member_and_shows_each_attempt() -> None:
    members = [rider(n) for n in range(5)]
    unsampled = rider(9)
    unsampled.sampled = False

    batch, first, second = catalogue.batch_spans(batch_of(*members, unsampled))

    assert batch.links == tuple((m.trace_id, m.span_id) for m in members)
    assert ("headrace.batch.size", 6) in batch.attributes
    assert (first.parent_id, second.parent_id) == (77, 77)
    assert first.error
    assert ("error.type", "UNAVAILABLE") in first.attributes
    assert not second.error


def test_more_members_than_a_span_may_link_are_cut_and_counted() -> None:
    batch = next(catalogue.batch_spans(batch_of(*(rider(n % 250) for n in range(600)))))

    assert len(batch.links) == 512
    assert batch.dropped_links == 88


def test_a_rider_dropped_from_the_queue_has_no_execute_and_a_refused_one_only_its_rpc() -> None:
    expired = list(catalogue.rpc_spans(rider(code="UNAVAILABLE", reason="DeadlinePassed")))
    refused = list(catalogue.rpc_spans(rider(code="INVALID_ARGUMENT", reason="InvalidInference", queued=False)))

    assert [s.shape.name for s in expired][1:] == ["queue"]
    assert expired[0].error
    assert len(refused) == 1
    assert refused[0].event == ("headrace.shed", "InvalidInference")
    assert not refused[0].error


def test_both_encodings_decode_to_the_same_spans() -> None:
    resource = (("service.name", "headrace-gateway"), ("n", 3))
    spans = every_span()

    request = ExportTraceServiceRequest.FromString(otlp.protobuf_request(resource, map(otlp.protobuf_span, spans)))
    tree = json.loads(otlp.json_line(resource, map(otlp.json_span, spans)))

    decoded = request.resource_spans[0].scope_spans[0].spans
    stored = tree["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert len(decoded) == len(stored) == len(spans)
    assert {a.key: a.value.string_value for a in request.resource_spans[0].resource.attributes}[
        "service.name"
    ] == "headrace-gateway"
    for span, proto, line in zip(spans, decoded, stored, strict=True):
        assert proto.name == line["name"] == span.shape.name
        assert proto.kind == line["kind"] == span.shape.kind
        assert proto.trace_id.hex() == line["traceId"] == span.trace_id.hex()
        assert proto.span_id.hex() == line["spanId"] == f"{span.span_id:016x}"
        assert proto.parent_span_id.hex() == line.get("parentSpanId", "")
        assert (proto.start_time_unix_nano, proto.end_time_unix_nano) == (span.start_ns, span.end_ns)
        assert (line["startTimeUnixNano"], line["endTimeUnixNano"]) == (str(span.start_ns), str(span.end_ns))
        assert [(x.trace_id, int.from_bytes(x.span_id)) for x in proto.links] == list(span.links)
        assert [(bytes.fromhex(x["traceId"]), int(x["spanId"], 16)) for x in line.get("links", [])] == list(span.links)
        assert proto.dropped_links_count == span.dropped_links == line.get("droppedLinksCount", 0)
        assert (proto.status.code == 2) is span.error is (line.get("status", {}).get("code") == 2)
        assert [e.name for e in proto.events] == [e["name"] for e in line.get("events", [])]
        assert _proto_attributes(proto) == reading._attributes(line) == dict((*span.shape.attributes, *span.attributes))


def _proto_attributes(span: object) -> dict[str, object]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}  # type: ignore[attr-defined]


@given(st.binary(min_size=16, max_size=16), st.integers(1, 2**64 - 1), st.booleans())
def test_a_valid_traceparent_is_parsed(trace_id: bytes, span_id: int, sampled: bool) -> None:  # noqa: FBT001
    found = context.parse(f"00-{trace_id.hex()}-{span_id:016x}-0{int(sampled)}")

    expected = context.Context(trace_id, span_id, sampled) if any(trace_id) else None
    assert found == expected


@given(st.text(max_size=80))
def test_any_other_text_starts_a_new_trace_instead_of_failing(text: str) -> None:
    assert context.parse(text) is None


def test_a_callers_flag_is_honoured_and_the_share_decides_for_the_rest() -> None:
    declined = context.Context(TRACE, 1, sampled=False)

    assert context.begin(declined, 1.0)[3] is False
    assert context.begin(None, 1.0)[3] is True
    assert context.begin(None, 0.0)[3] is False
    kept = sum(context.begin(None, 0.25)[3] for _ in range(4000))
    assert 850 < kept < 1150


def test_a_context_survives_the_replica_wire() -> None:
    assert context.unpack(context.pack(TRACE, 5, sampled=True)) == (TRACE, 5, True)
    assert context.unpack(b"") is None


def test_spans_written_to_files_are_read_back_as_one_whole_inference(tmp_path: Path) -> None:
    settings = TelemetrySettings(trace_dir=tmp_path)
    gateway, replica = Tracer("headrace-gateway", settings, "g"), Tracer("headrace-replica", settings, "r")
    members = [rider(n) for n in (1, 2, 3)]
    batch = batch_of(*members)
    for member in members:
        gateway.rpc(member)
    gateway.batch(batch)
    replica.replica(replica_record())
    gateway.close()
    replica.close()

    trace = reading.find(tmp_path, members[1].trace_id.hex())

    assert trace is not None
    assert trace.complete
    by_name = {span.name: span for span in trace.batch}
    assert by_name["replica.batch"].parent_id == f"{6:016x}"
    assert by_name["forward"].parent_id == by_name["replica.batch"].span_id
    (linked,) = [span.links for span in trace.batch if span.name == "batch"]
    assert {trace_id for trace_id, _ in linked} == {m.trace_id.hex() for m in members}


def test_files_stay_within_their_bound(tmp_path: Path) -> None:
    tracer = Tracer(
        "headrace-gateway", TelemetrySettings(trace_dir=tmp_path, max_file_bytes=64 * 1024, max_files=2), "g"
    )
    for number in range(3000):
        tracer.rpc(rider(number % 200))
        if number % 50 == 0:
            tracer._flush()
    tracer.close()

    files = list(tmp_path.glob("*.jsonl"))
    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) <= 2 * 64 * 1024 + 64 * 1024
    assert tracer.statistics().failed == 0


def test_a_full_ring_drops_the_newest_and_counts(tmp_path: Path) -> None:
    tracer = Tracer("headrace-gateway", TelemetrySettings(trace_dir=tmp_path), "g")
    for _ in range(tracing.RING + 10):
        tracer.rpc(rider())

    assert tracer.statistics().dropped == 10


def test_blank_flags_and_odd_versions_start_a_new_trace() -> None:
    good = f"{TRACE.hex()}-{7:016x}"

    assert context.parse(f"00-{good}-01") == (TRACE, 7, True)
    assert context.parse(f"00-{good}-  ") is None
    assert context.parse(f"zz-{good}-01") is None
    assert context.parse(f"01-{good}-01-more") == (TRACE, 7, True)


def test_a_record_that_cannot_be_told_does_not_end_the_telling(tmp_path: Path) -> None:
    tracer = Tracer("headrace-gateway", TelemetrySettings(trace_dir=tmp_path), "g")
    broken = rider()
    broken.trace_id = None  # type: ignore[assignment]
    broken.start_ns = None  # type: ignore[assignment]
    tracer.rpc(broken)
    tracer.rpc(rider(2))
    tracer.close()

    assert tracer.statistics().failed == 1
    assert reading.find(tmp_path, rider(2).trace_id.hex()) is not None


def test_a_collector_that_is_away_costs_nothing_but_the_spans() -> None:
    tracer = Tracer("headrace-gateway", TelemetrySettings(otlp_endpoint="http://127.0.0.1:9"), "g")
    tracer.start()
    tracer.rpc(rider(code="NOT_FOUND", reason="UnknownModel", queued=False))
    tracer.close()

    assert tracer.statistics().failed == 1
    assert tracer.statistics().exported == 0
