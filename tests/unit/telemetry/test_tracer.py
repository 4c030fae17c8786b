"""The tracer: whole families, bounds, files, collectors that are away, and what may never be exported."""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import time
from pathlib import Path

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.records import batch_of, rider
from tests.sink import Sink

from headrace.config import TelemetrySettings
from headrace.core.records import BatchRecord
from headrace.telemetry import collector, reading, request_log, trace_files
from headrace.telemetry.keep import Keeper, strongest
from headrace.telemetry.logging import JsonLines
from headrace.telemetry.tracing import Tracer


def tracer(folder: Path, **more: object) -> Tracer:
    return Tracer("headrace-gateway", TelemetrySettings.model_validate({"trace_dir": folder, **more}), "g")


def test_spans_written_to_files_are_read_back_as_one_whole_inference(tmp_path: Path) -> None:
    one = tracer(tmp_path)
    members = [rider(n, tracestate="") for n in (1, 2, 3)]
    one.family(batch_of(*members))
    one.single(rider(4, code="NOT_FOUND", reason="UnknownModel", queued=False))
    one.close()

    (trace,) = reading.find(tmp_path, members[1].trace_id.hex())

    assert trace.complete
    by_name = {span.name: span for span in trace.batch}
    assert by_name["replica.batch"].service == "headrace-replica"
    assert by_name["replica.batch"].parent_id == f"{6:016x}"
    assert by_name["forward"].parent_id == by_name["replica.batch"].span_id
    assert {mate.trace_id for mate in trace.mates} == {members[0].trace_id.hex(), members[2].trace_id.hex()}
    assert reading.find(tmp_path, rider(4).trace_id.hex())[0].own[0].attributes["headrace.keep"] == "refused"


def test_a_family_that_does_not_fit_is_dropped_whole_and_counted(tmp_path: Path) -> None:
    one = tracer(tmp_path, max_waiting=10)
    for first in range(0, 16, 4):
        one.family(batch_of(*(rider(first + n) for n in range(4))))

    assert one.statistics().dropped == 8
    assert one.statistics().waiting == 8
    one.close()
    assert len(reading.slowest(tmp_path, 100)) == 8


def test_what_nobody_sampled_leaves_no_span(tmp_path: Path) -> None:
    one = tracer(tmp_path)
    one.family(batch_of(rider(1, sampled=False), rider(2, sampled=False)))
    one.single(rider(3, sampled=False, code="INTERNAL", reason="ModelFailed"))
    one.close()

    assert list(tmp_path.iterdir()) == []


def test_told_families_leave_nothing_for_the_garbage_collector(tmp_path: Path) -> None:
    one = tracer(tmp_path)
    one.family(batch_of(*(rider(n) for n in range(8))))
    one.family(batch_of(*(rider(n, sampled=False) for n in range(8))))
    one.close()
    gc.collect()
    gc.disable()
    try:
        one = tracer(tmp_path)
        one.family(batch_of(*(rider(n) for n in range(8))))
        one.close()
        alive = [thing for thing in gc.get_objects() if isinstance(thing, BatchRecord)]
    finally:
        gc.enable()

    assert alive == []


def test_files_stay_within_their_bound_and_keep_what_is_worth_it_longer(tmp_path: Path) -> None:
    one = tracer(tmp_path, max_file_bytes=64 * 1024, max_files=2)
    failed = rider(250, code="INTERNAL", reason="ModelFailed")
    slow = rider(251, end_ns=80_000_000)
    for record in (*[rider(n) for n in range(50)], failed, slow):
        one.single(record)
    for number in range(3000):
        one.single(rider(number % 200))
        if number % 50 == 0:
            turn(one)
    one.close()

    ordinary = [file for file in tmp_path.glob("*.jsonl") if ".kept." not in file.name]
    assert len(ordinary) == 2
    assert sum(file.stat().st_size for file in tmp_path.glob("*.jsonl")) <= 4 * 64 * 1024 + 64 * 1024
    assert one.statistics().failed == 0
    (found,) = reading.find(tmp_path, failed.trace_id.hex())
    assert found.rpc.attributes["headrace.keep"] == "failed"
    assert reading.slowest(tmp_path, 1)[0].rpc.trace_id == slow.trace_id.hex()


def test_a_file_that_is_let_go_while_the_folder_is_read_is_passed_over(tmp_path: Path) -> None:
    one = tracer(tmp_path)
    one.single(rider())
    one.close()
    (tmp_path / "let-go.jsonl").symlink_to(tmp_path / "nowhere")

    assert [trace.rpc.trace_id for trace in reading.slowest(tmp_path, 5)] == [rider().trace_id.hex()]


def test_a_folder_that_cannot_be_written_costs_the_spans_and_is_counted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    one = tracer(tmp_path / "file" / "traces")
    one.single(rider())
    one.close()

    assert one.statistics().failed == 2
    assert one.statistics().exported == 0


def test_a_failing_disk_does_not_cost_what_it_took_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    one = tracer(tmp_path, max_files=2)
    failed = rider(250, code="INTERNAL", reason="ModelFailed")
    one.single(failed)
    turn(one)
    with monkeypatch.context() as patched:
        patched.setattr(trace_files, "_write_all", full)
        for _ in range(6):
            one.single(rider(1, reason="ModelFailed"))
            one.single(rider(2))
            turn(one)
    one.single(rider(3))
    one.close()

    assert reading.find(tmp_path, failed.trace_id.hex())
    assert reading.find(tmp_path, rider(3).trace_id.hex())
    assert one.statistics().failed == 6 * 2 * 2
    assert all(file.stat().st_size for file in tmp_path.glob("*.jsonl"))


def test_files_of_processes_that_are_gone_are_bounded_too(tmp_path: Path) -> None:
    for number in range(7):
        for kind in (".", ".kept."):
            old = tmp_path / f"headrace-gateway-{4_000_000 + number}-abcdef{kind}1.jsonl"
            old.write_text("{}\n")
            os.utime(old, (number, number))
    mine = tmp_path / f"headrace-gateway-{os.getpid()}-000000.1.jsonl"
    mine.write_text("{}\n")
    alive = tmp_path / f"headrace-gateway-{os.getppid()}-000000.1.jsonl"
    alive.write_text("{}\n")
    one = tracer(tmp_path)
    one.single(rider())
    one.close()

    left = {file.name for file in tmp_path.glob("*.jsonl")}
    assert {f"headrace-gateway-{4_000_000 + n}-abcdef.1.jsonl" for n in (4, 5, 6)} <= left
    assert f"headrace-gateway-{4_000_000}-abcdef.1.jsonl" not in left
    assert mine.name in left, "as new as they come, though its process id is only the same"
    assert alive.name in left
    assert len([name for name in left if ".kept." in name]) == 7, "no kept file has begun: they are looked at then"


def turn(one: Tracer) -> None:
    """What the thread does, now."""
    one._encode()
    one._send()


def test_a_record_that_cannot_be_told_does_not_end_the_telling(tmp_path: Path) -> None:
    one = tracer(tmp_path)
    one.single(rider(start_ns=None))
    one.single(rider(2))
    one.close()

    assert one.statistics().failed == 1
    assert reading.find(tmp_path, rider(2).trace_id.hex())


def test_a_collector_that_is_away_costs_nothing_but_the_spans() -> None:
    one = Tracer("headrace-gateway", TelemetrySettings(otlp_endpoint="http://127.0.0.1:9"), "g")
    one.start()
    one.single(rider(code="NOT_FOUND", reason="UnknownModel", queued=False))
    begun = time.monotonic()
    one.close()

    assert time.monotonic() - begun < 8
    statistics = one.statistics()
    assert statistics.failed + statistics.dropped == 1
    assert statistics.exported == 0


def test_a_collector_gets_every_family_with_the_headers_that_were_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "tenant=payments")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,k8s.pod.name=gateway-0")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "front-door")
    sink = Sink()
    one = tracer(tmp_path, otlp_endpoint=sink.endpoint)
    one.family(batch_of(*(rider(n) for n in range(5))))
    one.close()
    sink.close()

    assert sink.names["execute"] == sink.names["queue"] == 5
    assert sink.names["forward"] == 6
    assert sink.metadata[0]["tenant"] == "payments"
    gateway, replica = (
        {a.key: a.value.string_value for a in spans.resource.attributes} for spans in sink.requests[0].resource_spans
    )
    assert gateway["service.name"] == "front-door"
    assert replica["service.name"] == "headrace-replica"
    assert replica["service.instance.id"] == "replica-b"
    assert replica["host.name"] == "node-7"
    assert gateway["k8s.pod.name"] == "gateway-0"
    assert "k8s.pod.name" not in replica
    assert gateway["deployment.environment.name"] == replica["deployment.environment.name"] == "test"
    assert one.statistics().exported == sum(sink.names.values())


def test_spans_a_collector_rejects_or_refuses_are_counted_and_not_sent_again(tmp_path: Path) -> None:
    sink = Sink()
    sink.reject = 2
    one = tracer(tmp_path, otlp_endpoint=sink.endpoint)
    one.single(rider())
    turn(one)
    sink.refuse = grpc.StatusCode.INVALID_ARGUMENT
    one.single(rider())
    one.close()
    sink.close()

    statistics = one.statistics()
    assert (statistics.rejected, statistics.failed, statistics.exported) == (2, 2, 0)


def test_a_collector_that_comes_back_gets_what_it_missed_without_new_traffic(tmp_path: Path) -> None:
    sink = Sink()
    sink.refuse = grpc.StatusCode.UNAVAILABLE
    one = tracer(tmp_path, otlp_endpoint=sink.endpoint)
    one.start()
    one.single(rider(1))
    time.sleep(0.5)
    one.single(rider(2))
    sink.refuse = None
    deadline = time.monotonic() + 15
    while sink.names["queue"] < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    one.close()
    sink.close()

    assert sink.names["queue"] == 2
    assert one.statistics().failed == 0


def test_closing_delivers_what_had_to_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
    sink = Sink()
    sink.refuse = grpc.StatusCode.UNAVAILABLE
    one = tracer(tmp_path, otlp_endpoint=sink.endpoint)
    one.single(rider(1))
    turn(one)
    sink.refuse = None
    one.close()
    sink.close()

    assert sink.names["queue"] == 1
    assert one.statistics().exported == 2


def test_a_page_that_is_too_much_for_a_collector_stands_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
    sink = Sink()
    sink.refuse = grpc.StatusCode.RESOURCE_EXHAUSTED
    one = tracer(tmp_path, otlp_endpoint=sink.endpoint)
    one.single(rider(1))
    turn(one)
    sink.refuse = None
    one.single(rider(2))
    one.close()
    sink.close()

    assert one.statistics().failed == 2
    assert one.statistics().exported == 2


def test_an_answer_in_another_language_counts_as_taken() -> None:
    assert collector._rejected(b"") == 0
    assert collector._rejected(b"\xff\xff\xff") == 0


def test_the_thread_outlives_an_exporter_that_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = tracer(tmp_path)
    working = one._exporter.export
    one.start()
    with monkeypatch.context() as patched:
        patched.setattr(one._exporter, "export", lambda *_, **__: 1 / 0)
        one.single(rider(1))
        while not one.statistics().failed:
            time.sleep(0.01)
    one._exporter.export = working  # type: ignore[method-assign]
    one.single(rider(2))
    one.close()

    assert one.statistics().failed == 2
    assert reading.find(tmp_path, rider(2).trace_id.hex())


# What is kept ---------------------------------------------------------------------------------------------------------


def test_the_slowest_hundredth_is_kept_whatever_slow_means() -> None:
    keeper = Keeper(None)
    reasons = [keeper.of(rider(end_ns=1_000_000 + (17 * n % 1000) * 1000)) for n in range(20_000)]

    assert 0.004 < reasons[5000:].count("slow") / 15_000 < 0.02
    assert keeper.of(rider(end_ns=10_000_000)) == "slow"
    assert keeper.of(rider(model="other", end_ns=10_000_000)) == ""


def test_failures_refusals_and_retries_are_kept_and_a_caller_that_left_is_not() -> None:
    keeper = Keeper(100.0)
    once = batch_of(rider(1), rider(2))
    once.dispatches = once.dispatches[1:]

    assert keeper.of(rider(reason="ModelFailed")) == "failed"
    assert keeper.of(rider(reason="KeyError")) == "failed"
    assert keeper.of(rider(reason="Overloaded")) == "refused"
    assert keeper.of(rider(reason="Cancelled")) == ""
    assert keeper.of(rider(end_ns=101_000_000)) == "slow"
    assert keeper.of_family(once) == ["", ""]
    assert keeper.of_family(batch_of(rider(1), rider(2, reason="ModelFailed"))) == ["retried", "failed"]
    assert strongest(["", "slow", "refused", "failed"]) == "failed"
    assert strongest([]) == ""


# What is logged -------------------------------------------------------------------------------------------------------


@given(st.integers(10**12, 10**19 - 1))
@settings(max_examples=50)
def test_a_log_line_has_no_id_and_no_number_that_could_be_a_cards(number: int) -> None:
    record = rider(
        code="INVALID_ARGUMENT",
        reason="InvalidInference",
        request_id=f"order-{number}",
        detail=f"unexpected inference input '{number}' for model 'm'. Expected [-1,32,16], got [1,32,1024].",
    )

    line = logging.LogRecord("headrace.requests", logging.INFO, "", 0, "%s", (record.reason,), None)
    line.fields = request_log.fields(record)
    text = JsonLines().format(line)

    assert str(number) not in text
    told = json.loads(text)
    assert told["message"] == "InvalidInference"
    assert told["trace_id"] == record.trace_id.hex()
    assert told["request_id_hash"] == request_log.hashed(f"order-{number}")
    assert told["duration_ms"] == 2.5
    assert "[-1,32,16], got [1,32,1024]" in told["detail"]


def test_words_that_are_no_names_are_blotted_out() -> None:
    sentence = "unexpected inference input '{}' for model 'fraud-tx'. Got 4111.1111.1111.1111"

    for word in ("jane@example.com", "4111 1111 1111 1111", "acct12345678", "x" * 3 + "'", "Jane Doe"):
        told = request_log.blotted(sentence.format(word))
        assert word not in told
        assert told.startswith("unexpected inference input")
        assert "4111" not in told
    assert "card_amount_2" not in request_log.blotted(sentence.format("card_amount_2"))


def test_words_of_ours_and_of_our_models_stay_readable() -> None:
    known = request_log.OURS | {"card_amount_2", "fraud-tx"}
    sentence = "inference input 'card_amount_2' data-type is '{}', but model 'fraud-tx' expects 'FP32'"

    assert request_log.blotted(sentence.format("INT32"), known) == sentence.format("INT32")
    assert request_log.blotted(sentence.format("Ada"), known) == "inference input 'card_amount_2' data-type is '…'"


@pytest.mark.parametrize("word", ["Ada", "x' Ada 'y", "Ada" * 100, "'Ada", "Ada'", "''Ada''", "\nAda\n"])
def test_a_callers_word_is_in_no_line_whatever_quotes_it_holds(word: str) -> None:
    sentences = ("Request for unknown model: '{}' is not found", "unexpected inference input '{}' for model 'fraud-tx'")

    for sentence in sentences:
        told = request_log.blotted(sentence.format(word)[: request_log.MAX_DETAIL], request_log.OURS | {"fraud-tx"})

        assert "Ada" not in told
        assert told.startswith(sentence[:20])


@pytest.mark.parametrize("name", ["card-Ada", "7", "it's", "a to model 'b", "two\nlines"])
def test_whose_sequence_it_is_is_blotted_out(name: str) -> None:
    sentence = "inference request for sequence {} to model 'fraud-gru' must specify the START flag"

    assert request_log.blotted(sentence.format(name), {"fraud-gru"}) == sentence.format("…")


@pytest.mark.parametrize("field", ["channel", "outcome", "country", "currency", "mcc"])
def test_what_a_field_of_a_payment_held_is_blotted_out_even_if_it_looks_like_a_name(field: str) -> None:
    sentence = f"payment.card_history[3]: {field} 'Ada_Lovelace' is not one of chip, atm for model 'm'"

    told = request_log.blotted(sentence, {"m"})

    assert told == f"payment.card_history[3]: {field} '…' is not one of chip, atm for model 'm'"


def test_lines_are_written_in_a_thread_and_what_does_not_fit_is_said(caplog: pytest.LogCaptureFixture) -> None:
    log = request_log.RequestLog()
    with caplog.at_level(logging.INFO, "headrace.requests"):
        for number in range(request_log.MAX_WAITING + 3):
            log.note(rider(number % 250, code="UNAVAILABLE", reason="Overloaded", sampled=False))
        log.start()
        log.close()

    assert len(caplog.records) == request_log.MAX_WAITING + 1
    assert caplog.records[-1].getMessage().startswith("3 more requests")


def test_an_error_in_the_log_says_where_and_never_what() -> None:
    secret = "4111111111111111"  # noqa: S105  a test card's number

    def inner() -> None:
        raise ValueError(secret)

    def outer() -> None:
        try:
            inner()
        except ValueError as error:
            raise RuntimeError(secret) from error

    with pytest.raises(RuntimeError) as caught:
        outer()
    info = caught.type, caught.value, caught.tb
    line = json.loads(JsonLines().format(logging.LogRecord("x", logging.ERROR, "", 0, "a batch failed", (), info)))

    assert "RuntimeError" in line["error"]
    assert "caused by ValueError" in line["error"]
    assert "in inner" in line["error"]
    assert secret not in line["error"]
