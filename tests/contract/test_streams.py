"""ModelStreamInfer over a real socket: order, errors, ends, and what a stream may never do to others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from tests.sink import Sink
from tests.streaming import Opened, Run, Talk, converse, echo, error_of, opened, until, value, with_gateway
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.gateway.server import Gateway
from headrace.telemetry import context
from headrace.testing.gateway import settings

SHUTTING_DOWN = "GRPC server is shutting down and has stopped accepting new requests."
SMALL_WINDOW = (
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 65_535),
    ("grpc.use_local_subchannel_pool", 1),
)
STREAM = "inference.GRPCInferenceService/ModelStreamInfer"


def unknown(name: str) -> service_pb2.ModelInferRequest:
    """Refused at once."""
    return service_pb2.ModelInferRequest(model_name="nobody", id=name)


def test_answers_come_in_the_order_of_requests_whichever_is_done_first(run: Run, tmp_path: Path) -> None:
    async def body(it: Opened) -> Any:
        it.replica.delay_s = 0.1
        return await converse(it.stub, [echo(1, request_id="a"), unknown("b"), echo(2, request_id="c"), unknown("d")])

    answers = with_gateway(run, tmp_path, body)

    assert [answer.infer_response.id for answer in answers] == ["a", "b", "c", "d"]
    assert [bool(answer.error_message) for answer in answers] == [False, True, False, True]
    assert [value(answers[place].infer_response) for place in (0, 2)] == [7.0, 8.0]


def test_requests_of_one_stream_ride_together(run: Run, tmp_path: Path) -> None:
    async def body(it: Opened) -> Any:
        it.replica.delay_s = 0.05
        answers = await converse(it.stub, [echo(key) for key in range(60)])
        return answers, it.replica.batches

    answers, batches = with_gateway(run, tmp_path, body)

    assert [value(answer.infer_response) for answer in answers] == [key + 6.0 for key in range(60)]
    assert len(batches) < 10
    assert max(batch.rows for batch in batches) > 16


def test_an_error_clears_all_but_the_id_and_the_stream_goes_on(run: Run, tmp_path: Path) -> None:
    async def body(it: Opened) -> Any:
        async with Talk(it.stub) as talk:
            heard = []
            for message in (echo(1), unknown("2"), echo(3)):
                await talk.say(message)
                heard.append(await talk.hear())
            return heard

    first, error, last = with_gateway(run, tmp_path, body)

    assert error.error_message == "[request id: 2] Request for unknown model: 'nobody' is not found"
    assert error.infer_response == service_pb2.ModelInferResponse(id="2")
    assert [value(first.infer_response), value(last.infer_response)] == [7.0, 9.0]


WRONG: list[tuple[Callable[[Any], None], str]] = [
    (lambda m: setattr(m, "model_version", "9"), "Request for unknown model: 'echo' version 9 is not found"),
    (lambda m: setattr(m, "model_version", "x"), "failed to get model version from specified version string"),
    (lambda m: setattr(m.inputs[0], "name", "n"), "unexpected inference input 'n' for model 'echo'"),
    (lambda m: m.outputs.add(name="n"), "unexpected inference output 'n' for model 'echo'"),
    (lambda m: m.inputs[0].shape.append(1), "unexpected shape for input 'events' for model 'echo'"),
    (lambda m: m.raw_input_contents.pop(), "unable to find data for input tensor 'key' for model 'echo' in request."),
    (lambda m: setattr(m.parameters["priority"], "int64_param", -1), "invalid value for 'priority'"),
    (lambda m: setattr(m.parameters["triton_x"], "int64_param", 1), "parameter keys starting with 'triton_'"),
    (lambda m: m.raw_input_contents.__setitem__(1, (-1).to_bytes(8, "little", signed=True)), "has a value below 0"),
]


def test_a_refusal_is_told_in_the_same_words_as_to_a_call_of_its_own(run: Run, tmp_path: Path) -> None:
    messages = [echo(request_id=f"{place}") for place in range(len(WRONG))]
    for (edit, _), message in zip(WRONG, messages, strict=True):
        edit(message)

    async def body(it: Opened) -> Any:
        unary = [(await error_of(it.stub.ModelInfer(message))).details() for message in messages]
        return unary, await converse(it.stub, messages)

    unary, streamed = with_gateway(run, tmp_path, body)

    assert [answer.error_message for answer in streamed] == unary
    assert all(sentence in told for (_, sentence), told in zip(WRONG, unary, strict=True))
    assert [answer.infer_response.id for answer in streamed] == [message.id for message in messages]


def test_a_caller_who_wants_statuses_gets_its_first_error_as_the_end_of_the_stream(run: Run, tmp_path: Path) -> None:
    async def body(it: Opened) -> Any:
        it.replica.delay_s = 0.05
        async with Talk(it.stub, triton_grpc_error="true") as talk:
            await talk.say(echo(1, request_id="a"), unknown("b"), unknown("c"), echo(2, request_id="d"))
            first = await talk.hear()
            error = await error_of(talk.hear())
        await until(lambda: not it.gateway.admission.held)
        return first, error

    first, error = with_gateway(run, tmp_path, body)

    assert first.infer_response.id == "a"
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "[request id: b] Request for unknown model: 'nobody' is not found"
    assert "traceparent" in dict(error.trailing_metadata())


def test_without_that_metadata_or_with_another_value_the_stream_stays_open(run: Run, tmp_path: Path) -> None:
    messages = [unknown("a"), echo(1)]

    async def body(it: Opened) -> Any:
        return await converse(it.stub, messages, triton_grpc_error="false")

    assert len(with_gateway(run, tmp_path, body)) == 2


def test_every_answer_is_the_last_of_its_request_and_none_is_empty(run: Run, tmp_path: Path) -> None:
    wants, wrong = echo(1), echo(2)
    wants.parameters["triton_enable_empty_final_response"].bool_param = True
    wrong.parameters["triton_enable_empty_final_response"].int64_param = 1

    plain, asked, refused = with_gateway(run, tmp_path, lambda it: converse(it.stub, [echo(0), wants, wrong]))

    assert plain.infer_response.parameters["triton_final_response"].bool_param
    assert asked.infer_response.parameters["triton_final_response"].bool_param
    assert [value(plain.infer_response), value(asked.infer_response)] == [6.0, 7.0]
    sentence = "invalid value type for 'triton_enable_empty_final_response' parameter, expected bool_param."
    assert refused.error_message.endswith(sentence)


def test_a_stream_without_requests_ends_well(run: Run, tmp_path: Path) -> None:
    async def body(it: Opened) -> Any:
        async with Talk(it.stub) as talk:
            return await talk.rest(), await talk.call.code()

    assert with_gateway(run, tmp_path, body) == ([], grpc.StatusCode.OK)


def test_cancelling_a_stream_takes_its_requests_out_of_the_queue_and_of_their_batches(run: Run, tmp_path: Path) -> None:
    async def body(it: Opened) -> Any:
        (lane,) = it.gateway.models.lanes()
        it.replica.hanging.set()
        async with Talk(it.stub) as talk:
            await talk.say(*(echo(key) for key in range(8)))
            await until(lambda: it.gateway.admission.held == 8 and it.replica.batches)
        await until(lambda: not it.gateway.admission.held)
        waiting, streams = lane.queue.rows, len(it.gateway.streams)
        it.replica.hanging.clear()
        return waiting, streams, value(await it.stub.ModelInfer(echo(1), timeout=5))

    assert with_gateway(run, tmp_path, body) == (0, 0, 7.0)


@pytest.mark.parametrize("most", [1, 4])
def test_a_caller_that_does_not_read_holds_no_permits_and_nothing_grows(run: Run, tmp_path: Path, most: int) -> None:
    """Its answers are as large as its ids: the client's window is full after a few of them."""
    long = "x" * 20_000

    async def body(it: Opened) -> Any:
        def taken() -> int:
            return sum(batch.rows for batch in it.replica.batches)

        async with (
            aio.insecure_channel(f"127.0.0.1:{it.gateway.port}", SMALL_WINDOW) as channel,
            Talk(service_pb2_grpc.GRPCInferenceServiceStub(channel)) as talk,
        ):
            saying = asyncio.create_task(talk.say(*(echo(key, request_id=f"{key} {long}") for key in range(400))))
            last = -1
            while last != taken() or it.gateway.admission.held:  # until nothing moves any more
                last = taken()
                await asyncio.sleep(0.2)
            other = value(await it.stub.ModelInfer(echo(1), timeout=5))
            heard = [await talk.hear() for _ in range(400)]
            await saying
        return last, other, [value(answer.infer_response) for answer in heard]

    stalled_at, other, heard = with_gateway(run, tmp_path, body, gateway__stream_requests=most)

    assert 0 < stalled_at < 40
    assert other == 7.0
    assert heard == [key + 6.0 for key in range(400)]


def test_no_more_requests_of_a_stream_are_taken_than_it_may_have_at_work(run: Run, tmp_path: Path) -> None:
    async def body(it: Opened) -> Any:
        it.replica.hanging.set()
        async with Talk(it.stub) as talk:
            await talk.say(*(echo(key) for key in range(40)))
            await until(lambda: it.gateway.admission.held >= 5)
            await asyncio.wait_for(it.stub.ServerLive(service_pb2.ServerLiveRequest()), 5)  # a few turns of the loop
            held = it.gateway.admission.held
            it.replica.hanging.clear()
            return held, len(await talk.rest())

    assert with_gateway(run, tmp_path, body, gateway__stream_requests=5) == (5, 40)


def test_the_deadline_of_a_stream_is_that_of_each_of_its_requests(run: Run, tmp_path: Path) -> None:
    async def body(it: Opened) -> Any:
        it.replica.hanging.set()
        loop = asyncio.get_running_loop()
        begun, sentences, code = loop.time(), [], None
        async with Talk(it.stub, timeout=0.4) as talk:
            await talk.say(echo(1), echo(2))
            try:
                while len(sentences) < 2:
                    sentences.append((await talk.hear()).error_message)
            except aio.AioRpcError as error:
                code = error.code()
        took_s = loop.time() - begun
        await until(lambda: not it.gateway.admission.held)
        it.replica.hanging.clear()
        return sentences, code, took_s

    sentences, code, took_s = with_gateway(run, tmp_path, body)

    assert all("Request timeout expired" in sentence for sentence in sentences)
    assert len(sentences) == 2 or code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert took_s < 1.5


def test_a_draining_gateway_answers_what_a_stream_has_asked_refuses_what_comes_and_ends_it(
    run: Run, tmp_path: Path
) -> None:
    async def body(it: Opened) -> Any:
        it.replica.hanging.set()
        async with Talk(it.stub) as early, Talk(it.stub) as late:
            await early.say(echo(1, request_id="in time"))
            await until(lambda: it.replica.batches and len(it.gateway.streams) == 2)
            stopping = asyncio.create_task(it.gateway.stop())
            await until(lambda: not it.gateway.admission.open)
            await late.say(echo(2, request_id="late"))
            refused = await late.hear()
            it.replica.hanging.clear()
            answered = await early.hear()
            ends = [await error_of(talk.hear()) for talk in (early, late)]
        await stopping
        return answered, refused, ends

    answered, refused, ends = with_gateway(run, tmp_path, body)

    assert value(answered.infer_response) == 7.0
    assert refused.error_message == f"[request id: late] {SHUTTING_DOWN}"
    assert [(end.code(), end.details()) for end in ends] == [(grpc.StatusCode.UNAVAILABLE, SHUTTING_DOWN)] * 2


def test_what_is_no_request_ends_the_stream_and_is_no_error_of_ours(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> Any:
        async with opened(tmp_path) as it, aio.insecure_channel(f"127.0.0.1:{it.gateway.port}") as channel:
            call = channel.stream_stream(f"/{STREAM}")()
            await call.write(b"\xff\xff\xff")
            error = await error_of(call.read())
            await until(lambda: not len(it.gateway.streams))
            return error

    with caplog.at_level(logging.WARNING):
        error = run(main())

    assert error.code() is grpc.StatusCode.INTERNAL
    assert [line for line in caplog.records if line.levelno >= logging.ERROR] == []


def test_a_stranger_may_not_open_a_stream(run: Run, tmp_path: Path) -> None:
    closed = {"mode": "closed", "callers": [{"name": "somebody", "token_sha256": "0" * 64, "may": ["infer"]}]}

    async def main() -> Any:
        async with (
            Gateway(settings(tmp_path, access=closed), "127.0.0.1:1") as gateway,
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            call = channel.stream_stream(f"/{STREAM}")()
            await call.write(b"")
            return await error_of(call.read())

    error = run(main())

    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


def test_every_request_of_a_stream_is_a_span_in_its_callers_trace_and_counts(run: Run, tmp_path: Path) -> None:
    sink, trace_id = Sink(), context.new_trace_id()
    parent = context.header(trace_id, 0xAA, sampled=True)

    async def body(it: Opened) -> Any:
        answers = await converse(it.stub, [echo(1), unknown("x"), echo(2)], traceparent=parent)
        told = [answer.infer_response.parameters["headrace_traceparent"].string_param for answer in answers]
        known = await it.stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name="echo"))
        stats = known.model_stats[0]
        return told, (stats.inference_stats.success.count, stats.inference_count)

    told, counted = with_gateway(run, tmp_path, body, telemetry__otlp_endpoint=sink.endpoint)

    spans = [span for _, span in sink.spans() if span.name == STREAM]
    assert counted == (2, 2)
    assert len(spans) == 3
    assert {span.trace_id for span in spans} == {trace_id}
    assert {span.parent_span_id for span in spans} == {(0xAA).to_bytes(8)}
    assert len({span.span_id for span in spans}) == 3
    assert {context.parse(one).span_id.to_bytes(8) for one in told if one} < {span.span_id for span in spans}
