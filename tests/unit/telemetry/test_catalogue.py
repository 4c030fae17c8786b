"""Records become the right spans: names, parents, links, attributes, times."""

from __future__ import annotations

from pathlib import Path

from tests.records import MS, REPLICA, Telling, Told, batch_of, rider

from headrace.core.records import BatchRecord, RpcRecord
from headrace.telemetry import clock
from headrace.telemetry.catalogue import Catalogue, Page
from headrace.telemetry.form import CLIENT, INTERNAL, SERVER
from headrace.telemetry.request_log import hashed

SERVER_ADDRESS = (("server.address", "10.0.0.9"), ("server.port", 8001))


def told(record: RpcRecord | BatchRecord, kept: list[str] | None = None, max_links: int = 512) -> list[Told]:
    telling = Telling()
    catalogue = Catalogue(telling, SERVER_ADDRESS, max_links)
    if isinstance(record, BatchRecord):
        catalogue.family(record, kept or [""] * len(record.members), Page())
    else:
        catalogue.single(record, (kept or [""])[0], Page())
    return telling.spans


def named(spans: list[Told], name: str) -> list[Told]:
    return [span for span in spans if span.name == name]


def test_a_riders_trace_reaches_the_forward_pass_and_links_its_batch() -> None:
    member = rider(parent_id=9, tracestate="a=1")
    spans = told(batch_of(member))

    mine = [span for span in spans if span.trace_id == member.trace_id]
    rpc, queue, execute, forward = mine
    wall = clock.offset_ns()
    (replicas_forward,) = [span for span in named(spans, "forward") if not span.links]
    assert [span.name for span in mine] == [member.method, "queue", "execute", "forward"]
    assert [span.blank.kind for span in mine] == [SERVER, INTERNAL, INTERNAL, INTERNAL]
    assert [span.state for span in mine] == ["a=1"] * 4
    assert (rpc.span_id, rpc.parent_id) == (member.span_id, 9)
    assert queue.parent_id == execute.parent_id == rpc.span_id
    assert forward.parent_id == execute.span_id
    assert execute.links == ((b"b" * 16, (77).to_bytes(8)),)
    assert forward.links == ((b"b" * 16, replicas_forward.span_id.to_bytes(8)),)
    assert forward.links_are_remote
    assert (rpc.start_ns - wall, rpc.end_ns - wall) == (1 * MS, 3_500_000)
    assert (queue.start_ns - wall, queue.end_ns - wall) == (1_100_000, 2 * MS)
    assert (execute.start_ns - wall, execute.end_ns - wall) == (2 * MS, 3 * MS)
    assert (forward.start_ns, forward.end_ns) == (111 * MS, 222 * MS)


def test_an_rpc_span_says_what_the_conventions_ask_for() -> None:
    rpc = told(batch_of(rider()), ["slow"])[-4]

    assert rpc.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": "inference.GRPCInferenceService/ModelInfer",
        "rpc.response.status_code": "OK",
        "server.address": "10.0.0.9",
        "server.port": 8001,
        "network.peer.address": "10.1.2.3",
        "network.peer.port": 5000,
        "headrace.model.name": "fraud-tx",
        "headrace.model.version": "1",
        "headrace.path": "primary",
        "headrace.tokens": 40,
        "headrace.request.id_hash": hashed('é"1%'),
        "headrace.deadline.ms": 8.0,
        "headrace.deadline.slack_ms": 5.5,
        "headrace.keep": "slow",
    }


def test_peers_of_every_family_are_read() -> None:
    def peer(text: str) -> tuple[object, object]:
        attributes = told(rider(queued=False, peer=text))[0].attributes
        return attributes["network.peer.address"], attributes["network.peer.port"]

    assert peer("ipv6:%5B::1%5D:77") == ("::1", 77)
    assert peer("ipv6:[::1]:77") == ("[::1]", 77)
    assert peer("unix:/tmp/socket") == ("/tmp/socket", 0)  # noqa: S108  an address, not a file
    assert peer("") == ("", 0)


def test_a_batch_links_every_member_and_shows_each_attempt() -> None:
    members = [rider(n) for n in range(5)]
    unsampled = rider(9, sampled=False)
    spans = told(batch_of(*members, unsampled), ["", "failed", "slow", "", "", ""])

    (batch,) = named(spans, "batch")
    first, second = named(spans, "dispatch")
    assert batch.parent_id == 0
    assert batch.links == tuple((m.trace_id, m.span_id.to_bytes(8)) for m in members)
    assert batch.attributes["headrace.batch.size"] == 6
    assert batch.attributes["headrace.keep"] == "failed"
    assert batch.attributes["headrace.batch.oldest_ms"] == 0.9
    assert not batch.blank.error
    assert (first.parent_id, second.parent_id) == (77, 77)
    assert (first.blank.kind, second.blank.kind) == (CLIENT, CLIENT)
    assert first.blank.error
    assert first.attributes["error.type"] == "UNAVAILABLE"
    assert not second.blank.error
    assert not [span for span in spans if span.trace_id == unsampled.trace_id]


def test_a_replicas_spans_carry_its_own_stamps_and_its_own_resource() -> None:
    telling, page = Telling(), Page()
    Catalogue(telling, (), 512).family(batch_of(rider(), rider(2)), ["", ""], page)
    spans = telling.spans

    (batch,) = named(spans, "replica.batch")
    stages = {span.name: span for span in spans if span.parent_id == batch.span_id}
    assert page.spans == len(spans)
    assert {identity: len(theirs) for identity, theirs in page.replicas.items()} == {REPLICA: 1}
    assert (batch.parent_id, batch.blank.kind) == (6, SERVER)
    assert (batch.start_ns, batch.end_ns) == (100 * MS, 230 * MS)
    assert batch.attributes["headrace.rows.expired"] == 1
    assert batch.attributes["headrace.device"] == "cpu"
    assert {name: (s.start_ns // MS, s.end_ns // MS) for name, s in stages.items()} == {
        "unpack": (101, 105),
        "h2d": (105, 111),
        "forward": (111, 222),
        "d2h": (222, 223),
    }
    assert stages["forward"].attributes["headrace.precision"] == "float32"
    assert stages["forward"].attributes["headrace.tokens.padded"] == 64


def test_a_batch_that_failed_at_its_replica_shows_how_far_it_got() -> None:
    spans = told(batch_of(rider(code="INTERNAL", reason="ModelFailed"), answered=False))

    (batch,) = named(spans, "batch")
    (at_replica,) = named(spans, "replica.batch")
    assert batch.blank.error
    assert at_replica.blank.error
    assert at_replica.attributes["error.type"] == "INTERNAL"
    assert not named(spans, "unpack")
    assert not named(spans, "forward")


def test_a_lost_replicas_batch_ends_at_dispatch() -> None:
    record = batch_of(rider())
    record.dispatches.pop()
    spans = told(record)

    assert [span.name for span in spans if span.trace_id == record.trace_id] == ["batch", "dispatch"]


def test_more_members_than_a_span_may_link_are_cut_and_counted() -> None:
    (batch,) = named(told(batch_of(*(rider(n) for n in range(200))), max_links=150), "batch")

    assert len(batch.links) == 150
    assert batch.dropped_links == 50


def test_a_rider_dropped_from_the_queue_has_no_execute_and_a_refused_one_only_its_rpc() -> None:
    expired = told(rider(code="UNAVAILABLE", reason="DeadlinePassed"), ["refused"])
    refused = told(rider(code="INVALID_ARGUMENT", reason="InvalidInference", queued=False))

    assert [span.name for span in expired][1:] == ["queue"]
    assert expired[0].blank.error
    assert expired[0].attributes["error.type"] == "UNAVAILABLE"
    assert expired[0].attributes["headrace.reason"] == "DeadlinePassed"
    assert expired[0].blank.event is None
    assert len(refused) == 1
    assert refused[0].blank.event == ("headrace.shed", "InvalidInference")
    assert not refused[0].blank.error
    assert "error.type" not in refused[0].attributes


def test_one_whose_caller_went_away_is_masked_and_shows_no_forward_pass() -> None:
    gone = rider(code="CANCELLED", reason="Cancelled")
    record = batch_of(gone, rider(2))
    gone.masked = "Cancelled"
    spans = told(record)

    mine = [span for span in spans if span.trace_id == gone.trace_id]
    assert [span.name for span in mine][1:] == ["queue", "execute"]
    assert mine[-1].attributes["headrace.masked"] is True
    assert not mine[0].blank.error


def test_the_document_names_every_span_and_every_attribute(root: Path) -> None:
    text = (root / "docs" / "tracing.md").read_text()
    failed = rider(code="INTERNAL", reason="ModelFailed")
    spans = told(batch_of(rider(), rider(2)), ["slow", ""]) + told(batch_of(failed, answered=False))

    words = {key for span in spans for key in span.attributes} | {s.name for s in spans if "/" not in s.name}
    assert [word for word in sorted(words) if f"`{word}`" not in text] == []
