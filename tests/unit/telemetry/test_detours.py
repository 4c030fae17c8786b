"""What spans and metrics say of a request that its lane alone has not answered."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from tests.records import MS, TRACE, Telling, Told, batch_of, rider

from headrace.core.records import BatchRecord, Detour, RpcRecord
from headrace.telemetry.catalogue import Catalogue, Page
from headrace.telemetry.keep import Keeper
from headrace.telemetry.metrics import GatewayMetrics
from headrace.telemetry.request_log import fields


def told(record: RpcRecord | BatchRecord) -> list[Told]:
    telling = Telling()
    catalogue = Catalogue(telling, (), 512)
    if isinstance(record, BatchRecord):
        catalogue.family(record, [""] * len(record.members), Page())
    else:
        catalogue.single(record, "", Page())
    return telling.spans


def fallen(**more: Any) -> RpcRecord:
    detour = Detour("overload", "version:1", "Overloaded")
    return rider(queued=False, version="2", detour=detour, **more)


def aside(**more: Any) -> RpcRecord:
    return rider(path="fallback", parent_id=0, **more)


def test_a_request_that_somebody_else_answered_says_who_and_why_and_is_no_error() -> None:
    (rpc,) = told(fallen())

    assert rpc.attributes["headrace.path"] == "fallback"
    assert rpc.attributes["headrace.fallback.reason"] == "overload"
    assert rpc.attributes["headrace.fallback.by"] == "version:1"
    assert rpc.attributes["headrace.fallback.error"] == "Overloaded"
    assert rpc.blank.event == ("headrace.fallback", "overload")
    assert not rpc.blank.error
    assert "headrace.idempotency" not in rpc.attributes


def test_the_try_that_failed_keeps_the_path_in_which_it_was_asked() -> None:
    record = rider(path="canary", detour=Detour("deadline", "prior", "DeadlinePassed"))

    rpc, queue = told(record)

    assert (rpc.attributes["headrace.path"], queue.attributes["headrace.path"]) == ("fallback", "canary")
    assert rpc.attributes["headrace.fallback.by"] == "prior"


def test_what_was_asked_instead_has_no_rpc_and_stands_under_the_requests() -> None:
    asked = aside()
    mine = [span for span in told(batch_of(asked)) if span.trace_id == TRACE[:-1] + b"\x01"]

    assert [span.name for span in mine] == ["queue", "execute", "forward"]
    assert mine[0].parent_id == mine[1].parent_id == asked.span_id
    assert {span.attributes["headrace.path"] for span in mine} == {"fallback"}


def test_one_that_left_the_queue_has_that_alone() -> None:
    (queue,) = told(aside())

    assert (queue.name, queue.parent_id) == ("queue", 1001)
    assert queue.end_ns - queue.start_ns == 3 * MS - 1_100_000


def test_a_replay_links_to_the_request_it_was_computed_for() -> None:
    (rpc,) = told(rider(queued=False, tracestate="a=1", detour=Detour(idempotency="replayed", original=(b"o" * 16, 5))))

    assert rpc.attributes["headrace.idempotency"] == "replayed"
    assert rpc.attributes["headrace.path"] == "primary"
    assert rpc.links == ((b"o" * 16, (5).to_bytes(8)),)
    assert rpc.state == "a=1"


def test_one_that_was_computed_for_itself_links_to_nobody() -> None:
    rpc = told(batch_of(rider(detour=Detour(idempotency="computed"))))[-4]

    assert rpc.attributes["headrace.idempotency"] == "computed"
    assert rpc.links == ()


def test_a_fallbacks_answer_is_worth_keeping() -> None:
    assert Keeper(slow_ms=1000).of(fallen()) == "fallback"
    assert Keeper(slow_ms=1000).of(rider(detour=Detour(idempotency="replayed"))) == ""


def test_the_log_says_who_and_why() -> None:
    found = fields(fallen())

    assert (found["fallback"], found["by"], found["instead_of"]) == ("overload", "version:1", "Overloaded")


def page(*records: RpcRecord, asides: tuple[RpcRecord, ...] = ()) -> str:
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    for record in records:
        metrics.observe_rpc(record)
    for record in asides:
        metrics.observe_aside(record)
    return generate_latest(registry).decode()


def test_one_request_is_one_failure_of_who_should_have_answered_and_one_success_of_who_did() -> None:
    text = page(fallen(), asides=(aside(closed_ns=2 * MS),))

    assert 'nv_inference_request_failure{model="fraud-tx",reason="REJECTED",version="2"} 1.0' in text
    assert 'nv_inference_request_success{model="fraud-tx",version="1"} 1.0' in text
    assert 'headrace_request_duration_seconds_count{code="OK",model="fraud-tx",path="fallback",version="2"} 1.0' in text
    assert 'path="fallback",version="1"} 1.0' in text  # its wait in the queue
    assert 'headrace_request_duration_seconds_count{code="OK",model="fraud-tx",path="fallback",version="1"}' not in text


def test_a_request_that_failed_all_the_same_is_no_fallback() -> None:
    record = fallen(code="INVALID_ARGUMENT", reason="InvalidInference")

    text = page(record)

    assert "headrace_fallback_total{" not in text
    assert told(record)[0].attributes["headrace.path"] == "primary"


def test_results_of_keys_are_counted_by_how_they_ended() -> None:
    def with_key(result: str, **more: Any) -> RpcRecord:
        original = (b"o" * 16, 5) if result in ("joined", "replayed") else None
        return rider(queued=False, rows=0, detour=Detour(idempotency=result, original=original), **more)

    wrong = {"code": "INVALID_ARGUMENT", "reason": "InvalidInference"}
    text = page(
        with_key("computed"),
        with_key("joined"),
        with_key("replayed"),
        with_key("conflict", **wrong),
        with_key("computed", code="UNAVAILABLE", reason="Overloaded"),
        with_key("joined", code="UNAVAILABLE", reason="Overloaded"),
    )

    for result, count in (("computed", 1), ("joined", 1), ("replayed", 1), ("conflict", 1), ("failed", 2)):
        assert f'headrace_idempotency_total{{model="fraud-tx",result="{result}",version="1"}} {count}.0' in text
