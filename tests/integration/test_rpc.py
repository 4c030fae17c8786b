"""The rpc room's server beside grpc.aio's: the same servicers, asked by grpcio's clients, give the same answers."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Self

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from tests.rpc import DETAILS, LARGE, TRAILING, Make, Run, ask, serving, until

from headrace.rpc.methods import Rule
from headrace.rpc.server import Server


@dataclass
class Outcome:
    """All that a caller can see of a call."""

    code: grpc.StatusCode
    details: str
    initial: tuple[Any, ...]
    trailing: tuple[Any, ...]
    answer: Any = None

    @classmethod
    async def of(cls, call: Any) -> Self:
        answer = None
        with contextlib.suppress(aio.AioRpcError):
            answer = await call
        initial, trailing = await call.initial_metadata(), await call.trailing_metadata()
        return cls(await call.code(), await call.details() or "", tuple(initial), tuple(trailing), answer)


def test_a_unary_call_is_answered_with_its_metadata(run: Run, make_server: Make) -> None:
    sent = (("x-text", "one two"), ("x-raw-bin", bytes(range(256))), ("x-empty-bin", b""), ("unseen", "1"))

    async def main() -> Outcome:
        async with serving(make_server) as served, served.channel() as channel:
            return await Outcome.of(channel.unary_unary("/t.T/unary")(b"hello", metadata=sent))

    assert run(main()) == Outcome(grpc.StatusCode.OK, "", (), sent[:3], b"hello")


def test_a_synchronous_client_gets_the_same_answer(run: Run, make_server: Make) -> None:
    def synchronous(address: str) -> tuple[Any, ...]:
        with grpc.insecure_channel(address) as channel:
            answer, call = channel.unary_unary("/t.T/unary").with_call(b"hello", metadata=(("x-a", "1"),))
            counted = list(channel.unary_stream("/t.T/many")(b"3"))
            both = list(channel.stream_stream("/t.T/both")(iter((b"a", b"b"))))
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary("/t.T/refuse")(b"")
        error: Any = refused.value
        return (
            answer, call.code(), tuple(call.trailing_metadata()), counted, both,
            error.code(), error.details(), tuple(error.trailing_metadata()),
        )  # fmt: skip

    async def main() -> tuple[Any, ...]:
        async with serving(make_server) as served:
            return await asyncio.to_thread(synchronous, served.address)

    assert run(main()) == (
        b"hello", grpc.StatusCode.OK, (("x-a", "1"),), [b"0", b"1", b"2"], [b"a", b"b"],
        grpc.StatusCode.FAILED_PRECONDITION, DETAILS, TRAILING,
    )  # fmt: skip


def test_a_refusal_has_its_code_its_unicode_details_and_its_metadata(run: Run, make_server: Make) -> None:
    async def main() -> Outcome:
        async with serving(make_server) as served, served.channel() as channel:
            return await Outcome.of(channel.unary_unary("/t.T/refuse")(b""))

    found = run(main())

    assert (found.code, found.details) == (grpc.StatusCode.FAILED_PRECONDITION, DETAILS)
    assert (found.initial, found.trailing) == ((), TRAILING)


def test_a_handler_that_raises_is_unknown_and_an_unknown_method_unimplemented(run: Run, make_server: Make) -> None:
    async def main() -> tuple[Outcome, Outcome, Outcome]:
        async with serving(make_server) as served, served.channel() as channel:
            return (
                await Outcome.of(channel.unary_unary("/t.T/fail")(b"")),
                await Outcome.of(channel.unary_unary("/t.T/none")(b"")),
                await Outcome.of(channel.unary_unary("/none.None/unary")(b"")),
            )

    failed, *unknown = run(main())

    assert failed.code is grpc.StatusCode.UNKNOWN
    assert failed.details.startswith("Unexpected <class 'ValueError'>")
    assert [(found.code, found.details) for found in unknown] == [
        (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
    ] * 2


def test_streams_of_all_kinds_are_whole_and_in_order(run: Run, make_server: Make) -> None:
    async def main() -> tuple[Any, ...]:
        async with serving(make_server) as served, served.channel() as channel:
            many = [one async for one in channel.unary_stream("/t.T/many")(b"2000")]
            count = await channel.stream_unary("/t.T/count")(bytes(size) for size in range(1000))
            sent = [bytes([i % 256]) * (i * 97 % 40_000) for i in range(300)]
            both = [one async for one in channel.stream_stream("/t.T/both")(iter(sent))]
            empty = [one async for one in channel.stream_stream("/t.T/both")(iter(()))]
            return many, count, both == sent, empty

    assert run(main()) == ([b"%d" % i for i in range(2000)], b"%d" % sum(range(1000)), True, [])


def test_a_deadline_ends_the_call_and_its_handler(run: Run, make_server: Make) -> None:
    async def main() -> tuple[grpc.StatusCode, float]:
        async with serving(make_server) as served, served.channel() as channel:
            await ask(channel, "unary")
            begun = time.monotonic()
            with pytest.raises(aio.AioRpcError) as caught:
                await ask(channel, "sleep", timeout=0.2)
            await asyncio.wait_for(served.handlers.cancelled.wait(), 5)
            return caught.value.code(), served.handlers.cancelled_at - begun

    code, cancelled_s = run(main())

    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert cancelled_s < 1.0


def test_a_cancelled_call_reaches_its_handler_within_a_tenth_of_a_second(run: Run, make_server: Make) -> None:
    async def main() -> float:
        async with serving(make_server) as served, served.channel() as channel:
            call = channel.unary_unary("/t.T/sleep")(b"")
            await until(lambda: served.handlers.begun["sleep"])
            begun = time.monotonic()
            call.cancel()
            await asyncio.wait_for(served.handlers.cancelled.wait(), 5)
            return served.handlers.cancelled_at - begun

    assert run(main()) < 0.1


def test_a_stream_whose_reader_leaves_ends_at_the_server(run: Run, make_server: Make) -> None:
    async def main() -> None:
        async with serving(make_server) as served, served.channel() as channel:
            call = channel.unary_stream("/t.T/flood")(b"1000")
            async for _ in call:
                break
            call.cancel()
            await asyncio.wait_for(served.handlers.cancelled.wait(), 5)

    run(main())


def test_a_call_may_wait_for_the_server_to_come(run: Run, make_server: Make, free_port: int) -> None:
    async def main() -> bytes:
        async with aio.insecure_channel(f"127.0.0.1:{free_port}") as channel:
            waiting = asyncio.create_task(ask(channel, "unary", b"a", wait_for_ready=True, timeout=20))
            await asyncio.sleep(0.1)
            async with serving(make_server, free_port):
                return await waiting

    assert run(main()) == b"a"


def test_twenty_megabytes_go_each_way(run: Run, make_server: Make) -> None:
    async def main() -> bool:
        message = random.Random(1).randbytes(LARGE)
        async with serving(make_server) as served, served.channel() as channel:
            return await ask(channel, "unary", message, timeout=30) == message

    assert run(main())


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests_are_read(run: Run, make_server: Make, compression: grpc.Compression) -> None:
    async def main() -> tuple[bytes, bytes]:
        async with serving(make_server) as served, served.channel() as channel:
            sized = await ask(channel, "unary", b"a" * 100_000, compression=compression)
            counting = channel.stream_unary("/t.T/count", request_serializer=bytes)
            return sized, await counting((b"b" * 100_000 for _ in range(3)), compression=compression)

    assert run(main()) == (b"a" * 100_000, b"300000")


@pytest.mark.parametrize(
    "make_small",
    [
        lambda: Server(rule_of=lambda _: Rule(max_message=50_000)),
        lambda: aio.server(options=(("grpc.max_receive_message_length", 50_000),)),
    ],
    ids=["ours", "grpc.aio"],
)
def test_a_message_over_the_limit_is_refused(run: Run, make_small: Make) -> None:
    async def main() -> tuple[list[Outcome], bytes]:
        async with serving(make_small) as served, served.channel() as channel:
            found = [
                await Outcome.of(channel.unary_unary("/t.T/unary")(bytes(60_000))),
                await Outcome.of(channel.unary_unary("/t.T/unary")(bytes(60_000), compression=grpc.Compression.Gzip)),
                await Outcome.of(channel.stream_unary("/t.T/count")(iter([b"a", bytes(60_000)]))),
            ]
            return found, await ask(channel, "unary", b"still here")

    found, after = run(main())

    assert [one.code for one in found] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 3
    assert "larger than max" in found[0].details
    assert "(60000 vs. 50000)" in found[0].details
    assert after == b"still here"


def test_a_thousand_calls_at_once_share_a_connection(run: Run, make_server: Make) -> None:
    async def main() -> bool:
        async with serving(make_server) as served, served.channel() as channel:
            answers = await asyncio.gather(*[ask(channel, "brief", b"%d" % i) for i in range(1000)])
            if isinstance(served.server, Server):
                assert len(served.server.connections) == 1
            return answers == [b"%d" % i for i in range(1000)]

    assert run(main())


def test_a_server_that_stops_answers_all_it_has_begun(run: Run) -> None:
    async def main() -> tuple[Counter[str], int]:
        results: Counter[str] = Counter()

        async def caller(channel: aio.Channel) -> None:
            while True:
                try:
                    await ask(channel, "brief", bytes(2000), timeout=10)
                except aio.AioRpcError as error:
                    results[error.code().name] += 1
                    return
                results["OK"] += 1

        async with serving() as served:
            channels = [served.channel() for _ in range(3)]
            callers = [asyncio.create_task(caller(channel)) for channel in channels for _ in range(15)]
            await until(lambda: results["OK"] > 300)
            await served.server.stop(5.0)
            await asyncio.gather(*callers)
            for channel in channels:
                await channel.close()
            return results, served.handlers.begun["brief"]

    results, begun = run(main())

    assert set(results) == {"OK", "UNAVAILABLE"}
    assert results["OK"] == begun


def test_a_stop_without_grace_cancels_what_runs(run: Run, make_server: Make) -> None:
    async def main() -> tuple[float, grpc.StatusCode]:
        async with serving(make_server) as served, served.channel() as channel:
            call = channel.unary_unary("/t.T/sleep")(b"")
            await until(lambda: served.handlers.begun["sleep"])
            begun = time.monotonic()
            await served.server.stop(0.1)
            await asyncio.wait_for(served.handlers.cancelled.wait(), 5)
            return time.monotonic() - begun, await call.code()

    seconds, code = run(main())

    assert seconds < 3.0
    assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_health_is_checked_and_watched_and_reflection_lists(run: Run, make_server: Make) -> None:
    status = health_pb2.HealthCheckResponse

    async def main() -> tuple[Any, ...]:
        async with serving(make_server) as served, served.channel() as channel:
            health = health_pb2_grpc.HealthStub(channel)
            served.handlers.health.say("a", serving=True)
            checked = await health.Check(health_pb2.HealthCheckRequest(service="a"))
            missing = await Outcome.of(health.Check(health_pb2.HealthCheckRequest(service="b")))
            watch = health.Watch(health_pb2.HealthCheckRequest(service="a"))
            first = await watch.read()
            served.handlers.health.say("a", serving=False)
            second = await watch.read()
            watch.cancel()
            reflector = reflection_pb2_grpc.ServerReflectionStub(channel)
            question = reflection_pb2.ServerReflectionRequest(list_services="")
            listed = [one async for one in reflector.ServerReflectionInfo(iter([question]))]
            names = [one.name for one in listed[0].list_services_response.service]
            return checked.status, missing.code, first.status, second.status, names

    assert run(main()) == (
        status.SERVING,
        grpc.StatusCode.NOT_FOUND,
        status.SERVING,
        status.NOT_SERVING,
        [reflection.SERVICE_NAME, "t.T"],
    )


def test_details_longer_than_a_frame_cost_no_other_call(run: Run, make_server: Make) -> None:
    async def main() -> tuple[grpc.StatusCode, bytes]:
        async with serving(make_server) as served, served.channel() as channel:
            beside = asyncio.create_task(ask(channel, "brief", b"a"))
            found = await Outcome.of(channel.unary_unary("/t.T/lament")(b"40000"))
            return found.code, await beside

    code, beside = run(main())

    assert code in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.RESOURCE_EXHAUSTED)  # a client's limit
    assert beside == b"a"
