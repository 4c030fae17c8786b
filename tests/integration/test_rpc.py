"""Our gRPC on our own HTTP/2: the same answers as grpc.aio's, and no peer that ends or holds up the others' calls."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Self

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer
from hpack import Decoder, Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.rpc import connection as connection_module
from headrace.rpc import frames
from headrace.rpc import server as server_module
from headrace.rpc.channel import Channel
from headrace.rpc.fields import literal
from headrace.rpc.messages import Failure, framed
from headrace.rpc.server import Server, ServerConnection

Run = Callable[..., Any]

LIMIT: Final = 64 << 20
LARGE: Final = 20 << 20
OPTIONS: Final = (("grpc.max_receive_message_length", LIMIT), ("grpc.max_send_message_length", -1))
DETAILS: Final = "Grüße, 100 % 日本\nund\x7f"
TRAILING: Final = (("why", "because"), ("raw-bin", bytes(range(256))))
HEALTH: Final = "/grpc.health.v1.Health/Check"

# Servers ----------------------------------------------------------------------------------------------------------


@dataclass
class Handlers:
    """What is served in all tests, and what has come of it."""

    begun: Counter[str] = field(default_factory=Counter)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled_at: float = 0.0
    go: asyncio.Event = field(default_factory=asyncio.Event)
    produced: int = 0

    async def unary(self, request: bytes, rpc: Any) -> bytes:
        self.begun["unary"] += 1
        rpc.set_trailing_metadata(tuple((k, v) for k, v in rpc.invocation_metadata() if k.startswith("x-")))
        return request

    async def brief(self, request: bytes, _: Any) -> bytes:
        self.begun["brief"] += 1
        await asyncio.sleep(0.01)
        return request

    async def sized(self, request: bytes, _: Any) -> bytes:
        return bytes(int(request))

    async def many(self, request: bytes, _: Any) -> AsyncIterator[bytes]:
        for i in range(int(request)):
            yield b"%d" % i

    async def flood(self, request: bytes, _: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                self.produced += 1
                yield bytes(int(request))
        finally:
            self.cancelled.set()

    async def count(self, requests: AsyncIterator[bytes], _: Any) -> bytes:
        return b"%d" % sum([len(request) async for request in requests])

    async def both(self, requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def deaf(self, _: Any, rpc: Any) -> None:
        await self.go.wait()
        while await rpc.read() is not aio.EOF:
            pass

    async def refuse(self, _: bytes, rpc: Any) -> None:
        await rpc.abort(grpc.StatusCode.FAILED_PRECONDITION, DETAILS, TRAILING)

    async def lament(self, request: bytes, rpc: Any) -> None:
        await rpc.abort(grpc.StatusCode.FAILED_PRECONDITION, "a" * int(request))

    async def fail(self, _: bytes, __: Any) -> None:
        raise ValueError("boom")

    async def sleep(self, _: bytes, __: Any) -> bytes:
        self.begun["sleep"] += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled_at = time.monotonic()
            self.cancelled.set()
            raise
        return b""

    def join(self, server: Any) -> None:
        kinds = {
            grpc.unary_unary_rpc_method_handler: ("unary", "brief", "sized", "refuse", "lament", "fail", "sleep"),
            grpc.unary_stream_rpc_method_handler: ("many", "flood"),
            grpc.stream_unary_rpc_method_handler: ("count",),
            grpc.stream_stream_rpc_method_handler: ("both", "deaf"),
        }
        methods = {name: kind(getattr(self, name)) for kind, names in kinds.items() for name in names}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", methods),))
        self.health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            ReflectionServicer(("t.T", reflection.SERVICE_NAME)), server
        )


@dataclass
class Served:
    server: Any
    port: int
    handlers: Handlers

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def channel(self) -> aio.Channel:
        return aio.insecure_channel(self.address, (*OPTIONS, ("grpc.use_local_subchannel_pool", 1)))


@contextlib.asynccontextmanager
async def serving(make: Callable[[], Any] = Server, port: int = 0) -> AsyncIterator[Served]:
    server, handlers = make(), Handlers()
    handlers.join(server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield Served(server, bound, handlers)
    finally:
        await server.stop(None)


@pytest.fixture(params=[Server, lambda: aio.server(options=OPTIONS)], ids=["ours", "grpc.aio"])
def make(request: pytest.FixtureRequest) -> Callable[[], Any]:
    found: Callable[[], Any] = request.param
    return found


async def ask(channel: aio.Channel, name: str, message: bytes = b"", **options: Any) -> bytes:
    answer: bytes = await channel.unary_unary(f"/t.T/{name}")(message, **options)
    return answer


async def until(done: Callable[[], Any], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not done():
            await asyncio.sleep(0.01)


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


# The same as grpc.aio's -------------------------------------------------------------------------------------------


def test_a_unary_call_is_answered_with_its_metadata(run: Run, make: Callable[[], Any]) -> None:
    sent = (("x-text", "one two"), ("x-raw-bin", bytes(range(256))), ("x-empty-bin", b""), ("unseen", "1"))

    async def main() -> Outcome:
        async with serving(make) as served, served.channel() as channel:
            return await Outcome.of(channel.unary_unary("/t.T/unary")(b"hello", metadata=sent))

    assert run(main()) == Outcome(grpc.StatusCode.OK, "", (), sent[:3], b"hello")


def test_a_synchronous_client_gets_the_same_answer(run: Run, make: Callable[[], Any]) -> None:
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
        async with serving(make) as served:
            return await asyncio.to_thread(synchronous, served.address)

    assert run(main()) == (
        b"hello", grpc.StatusCode.OK, (("x-a", "1"),), [b"0", b"1", b"2"], [b"a", b"b"],
        grpc.StatusCode.FAILED_PRECONDITION, DETAILS, TRAILING,
    )  # fmt: skip


def test_a_refusal_has_its_code_its_unicode_details_and_its_metadata(run: Run, make: Callable[[], Any]) -> None:
    async def main() -> Outcome:
        async with serving(make) as served, served.channel() as channel:
            return await Outcome.of(channel.unary_unary("/t.T/refuse")(b""))

    found = run(main())

    assert (found.code, found.details) == (grpc.StatusCode.FAILED_PRECONDITION, DETAILS)
    assert (found.initial, found.trailing) == ((), TRAILING)


def test_a_handler_that_raises_is_unknown_and_an_unknown_method_unimplemented(
    run: Run, make: Callable[[], Any]
) -> None:
    async def main() -> tuple[Outcome, Outcome, Outcome]:
        async with serving(make) as served, served.channel() as channel:
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


def test_streams_of_all_kinds_are_whole_and_in_order(run: Run, make: Callable[[], Any]) -> None:
    async def main() -> tuple[Any, ...]:
        async with serving(make) as served, served.channel() as channel:
            many = [one async for one in channel.unary_stream("/t.T/many")(b"2000")]
            count = await channel.stream_unary("/t.T/count")(bytes(size) for size in range(1000))
            sent = [bytes([i % 256]) * (i * 97 % 40_000) for i in range(300)]
            both = [one async for one in channel.stream_stream("/t.T/both")(iter(sent))]
            empty = [one async for one in channel.stream_stream("/t.T/both")(iter(()))]
            return many, count, both == sent, empty

    assert run(main()) == ([b"%d" % i for i in range(2000)], b"%d" % sum(range(1000)), True, [])


def test_a_deadline_ends_the_call_and_its_handler(run: Run, make: Callable[[], Any]) -> None:
    async def main() -> tuple[grpc.StatusCode, float]:
        async with serving(make) as served, served.channel() as channel:
            await ask(channel, "unary")
            begun = time.monotonic()
            with pytest.raises(aio.AioRpcError) as caught:
                await ask(channel, "sleep", timeout=0.2)
            await asyncio.wait_for(served.handlers.cancelled.wait(), 5)
            return caught.value.code(), served.handlers.cancelled_at - begun

    code, cancelled_s = run(main())

    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert cancelled_s < 1.0


def test_a_cancelled_call_reaches_its_handler_within_a_tenth_of_a_second(run: Run, make: Callable[[], Any]) -> None:
    async def main() -> float:
        async with serving(make) as served, served.channel() as channel:
            call = channel.unary_unary("/t.T/sleep")(b"")
            await until(lambda: served.handlers.begun["sleep"])
            begun = time.monotonic()
            call.cancel()
            await asyncio.wait_for(served.handlers.cancelled.wait(), 5)
            return served.handlers.cancelled_at - begun

    assert run(main()) < 0.1


def test_a_stream_whose_reader_leaves_ends_at_the_server(run: Run, make: Callable[[], Any]) -> None:
    async def main() -> None:
        async with serving(make) as served, served.channel() as channel:
            call = channel.unary_stream("/t.T/flood")(b"1000")
            async for _ in call:
                break
            call.cancel()
            await asyncio.wait_for(served.handlers.cancelled.wait(), 5)

    run(main())


def test_a_call_may_wait_for_the_server_to_come(run: Run, make: Callable[[], Any], free_port: int) -> None:
    async def main() -> bytes:
        async with aio.insecure_channel(f"127.0.0.1:{free_port}") as channel:
            waiting = asyncio.create_task(ask(channel, "unary", b"a", wait_for_ready=True, timeout=20))
            await asyncio.sleep(0.1)
            async with serving(make, free_port):
                return await waiting

    assert run(main()) == b"a"


def test_twenty_megabytes_go_each_way(run: Run, make: Callable[[], Any]) -> None:
    async def main() -> bool:
        message = random.Random(1).randbytes(LARGE)
        async with serving(make) as served, served.channel() as channel:
            return await ask(channel, "unary", message, timeout=30) == message

    assert run(main())


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests_are_read(run: Run, make: Callable[[], Any], compression: grpc.Compression) -> None:
    async def main() -> tuple[bytes, bytes]:
        async with serving(make) as served, served.channel() as channel:
            sized = await ask(channel, "unary", b"a" * 100_000, compression=compression)
            counting = channel.stream_unary("/t.T/count", request_serializer=bytes)
            return sized, await counting((b"b" * 100_000 for _ in range(3)), compression=compression)

    assert run(main()) == (b"a" * 100_000, b"300000")


def test_a_message_over_the_limit_is_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Any]
) -> None:
    monkeypatch.setattr(server_module, "MAX_MESSAGE", 50_000)
    monkeypatch.setattr(sys.modules[__name__], "OPTIONS", (("grpc.max_receive_message_length", 50_000),))

    async def main() -> tuple[list[Outcome], bytes]:
        async with serving(make) as served, served.channel() as channel:
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


def test_a_thousand_calls_at_once_share_a_connection(run: Run, make: Callable[[], Any]) -> None:
    async def main() -> bool:
        async with serving(make) as served, served.channel() as channel:
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


def test_a_stop_without_grace_cancels_what_runs(run: Run, make: Callable[[], Any]) -> None:
    async def main() -> tuple[float, grpc.StatusCode]:
        async with serving(make) as served, served.channel() as channel:
            call = channel.unary_unary("/t.T/sleep")(b"")
            await until(lambda: served.handlers.begun["sleep"])
            begun = time.monotonic()
            await served.server.stop(0.1)
            await asyncio.wait_for(served.handlers.cancelled.wait(), 5)
            return time.monotonic() - begun, await call.code()

    seconds, code = run(main())

    assert seconds < 3.0
    assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_health_is_checked_and_watched_and_reflection_lists(run: Run, make: Callable[[], Any]) -> None:
    status = health_pb2.HealthCheckResponse

    async def main() -> tuple[Any, ...]:
        async with serving(make) as served, served.channel() as channel:
            health = health_pb2_grpc.HealthStub(channel)
            await served.handlers.health.set("a", status.SERVING)
            checked = await health.Check(health_pb2.HealthCheckRequest(service="a"))
            missing = await Outcome.of(health.Check(health_pb2.HealthCheckRequest(service="b")))
            watch = health.Watch(health_pb2.HealthCheckRequest(service="a"))
            first = await watch.read()
            await served.handlers.health.set("a", status.NOT_SERVING)
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


def test_details_longer_than_a_frame_cost_no_other_call(run: Run, make: Callable[[], Any]) -> None:
    async def main() -> tuple[grpc.StatusCode, bytes]:
        async with serving(make) as served, served.channel() as channel:
            beside = asyncio.create_task(ask(channel, "brief", b"a"))
            found = await Outcome.of(channel.unary_unary("/t.T/lament")(b"40000"))
            return found.code, await beside

    code, beside = run(main())

    assert code in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.RESOURCE_EXHAUSTED)  # a client's limit
    assert beside == b"a"


# Our channel ------------------------------------------------------------------------------------------------------


@dataclass
class Heard:
    """What a stream of ours has brought."""

    messages: list[bytes] = field(default_factory=list)
    ends: list[grpc.StatusCode] = field(default_factory=list)

    def on_end(self, code: grpc.StatusCode, _: str) -> None:
        self.ends.append(code)


@contextlib.asynccontextmanager
async def calling(address: str) -> AsyncIterator[Channel]:
    channel = Channel(address)
    try:
        yield channel
    finally:
        await channel.close()


async def code_of(asking: Any) -> grpc.StatusCode:
    try:
        await asking
    except Failure as failure:
        return failure.code
    return grpc.StatusCode.OK


def test_our_channel_asks_and_is_told(run: Run, make: Callable[[], Any]) -> None:
    async def main() -> tuple[Any, ...]:
        async with serving(make) as served, calling(served.address) as channel:
            answers = await asyncio.gather(*[channel.unary("/t.T/unary", b"%d" % i, 20.0) for i in range(200)])
            large = await channel.unary("/t.T/sized", b"%d" % LARGE, 30.0)
            codes = [
                await code_of(channel.unary("/t.T/refuse", b"", 5.0)),
                await code_of(channel.unary("/t.T/none", b"", 5.0)),
                await code_of(channel.unary("/t.T/sleep", b"", 0.2)),
            ]
            await asyncio.wait_for(served.handlers.cancelled.wait(), 5)
            assert channel._connection is not None
            return answers == [b"%d" % i for i in range(200)], len(large), codes, dict(channel._connection.streams)

    right, size, codes, left = run(main())

    assert (right, size, left) == (True, LARGE, {})
    assert [code.name for code in codes] == ["FAILED_PRECONDITION", "UNIMPLEMENTED", "DEADLINE_EXCEEDED"]


def test_our_stream_goes_both_ways_until_we_end_it(run: Run, make: Callable[[], Any]) -> None:
    sent = [bytes([i % 256]) * (i * 997 % 300_000) for i in range(100)]

    async def main() -> Heard:
        heard = Heard()
        async with serving(make) as served, calling(served.address) as channel:
            stream = await channel.stream("/t.T/both", heard.messages.append, heard.on_end)
            for i, message in enumerate(sent, 1):
                stream.send(message, ends=i == len(sent))
            await until(lambda: heard.ends, 20)
        return heard

    heard = run(main())

    assert heard.messages == sent
    assert heard.ends == [grpc.StatusCode.OK]


def test_a_stream_that_the_peer_ends_early_is_over_on_both_sides(run: Run) -> None:
    async def main() -> tuple[list[grpc.StatusCode], int]:
        heard = Heard()
        async with serving() as served, calling(served.address) as channel:
            await channel.stream("/t.T/none", heard.messages.append, heard.on_end)
            await until(lambda: heard.ends)
            await channel.unary("/t.T/unary", b"", 5.0)
            (ours,) = served.server.connections
            return heard.ends, len(ours.streams)

    assert run(main()) == ([grpc.StatusCode.UNIMPLEMENTED], 0)


def test_a_leaving_peer_ends_our_stream_in_its_own_time_and_gets_no_new_call(run: Run, make: Callable[[], Any]) -> None:
    async def main() -> tuple[Any, ...]:
        heard = Heard()
        async with serving(make) as served, calling(served.address) as channel:
            stream = await channel.stream("/t.T/both", heard.messages.append, heard.on_end)
            stream.send(b"before")
            await until(lambda: heard.messages)
            old = channel._connection
            assert old is not None
            stopping = asyncio.create_task(served.server.stop(10.0))
            await until(lambda: old.leaving)
            code = await code_of(channel.unary("/t.T/unary", b"", 2.0))
            stream.send(b"after", ends=True)
            await until(lambda: heard.ends)
            await asyncio.wait_for(stopping, 3)
            return heard, code, old.closed

    heard, code, closed = run(main())

    assert (heard.messages, heard.ends) == ([b"before", b"after"], [grpc.StatusCode.OK])
    assert code is grpc.StatusCode.UNAVAILABLE
    assert closed


def test_our_channel_comes_back_to_a_peer_that_does(run: Run, make: Callable[[], Any], free_port: int) -> None:
    async def main() -> list[grpc.StatusCode]:
        codes = []
        async with calling(f"127.0.0.1:{free_port}") as channel:
            codes.append(await code_of(channel.unary("/t.T/unary", b"", 5.0)))
            for _ in range(2):
                async with serving(make, free_port):
                    codes.append(await code_of(channel.unary("/t.T/unary", b"", 5.0)))
                await until(lambda: channel._connection is None or channel._connection.closed)
            codes.append(await code_of(channel.unary("/t.T/unary", b"", 5.0)))
        codes.append(await code_of(channel.unary("/t.T/unary", b"", 5.0)))
        return codes

    assert [code.name for code in run(main())] == ["UNAVAILABLE", "OK", "OK", "UNAVAILABLE", "UNAVAILABLE"]


def test_a_closed_channel_has_ended_its_calls_and_left_nothing(run: Run, make: Callable[[], Any]) -> None:
    async def main() -> tuple[list[grpc.StatusCode], set[str]]:
        heard = Heard()
        async with serving(make) as served:
            channel = Channel(served.address)
            stream = await channel.stream("/t.T/both", heard.messages.append, heard.on_end)
            stream.send(b"a")
            await until(lambda: heard.messages)
            await channel.close()
            ended = list(heard.ends)
            await channel.close()
        return ended, {task.get_name() for task in asyncio.all_tasks() if task.get_name() == "keep-alive"}

    assert run(main()) == ([grpc.StatusCode.UNAVAILABLE], set())


PEER: Final = """
import asyncio, sys, grpc
from headrace.rpc.server import Server
async def both(requests, rpc):
    async for request in requests:
        yield request
async def main():
    server = Server()
    handler = grpc.stream_stream_rpc_method_handler(both)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", {"both": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.parametrize(("how", "within_s"), [(signal.SIGKILL, 0.5), (signal.SIGSTOP, 2.5)], ids=["killed", "stopped"])
def test_a_peer_that_is_gone_is_noticed(run: Run, how: signal.Signals, within_s: float) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    peer = subprocess.Popen([sys.executable, "-c", PEER], stdout=subprocess.PIPE, env=environment)
    assert peer.stdout is not None
    port = int(peer.stdout.readline())

    async def main() -> tuple[float, list[grpc.StatusCode]]:
        heard = Heard()
        async with calling(f"127.0.0.1:{port}") as channel:
            stream = await channel.stream("/t.T/both", heard.messages.append, heard.on_end)
            stream.send(b"a")
            await until(lambda: heard.messages)
            begun = time.monotonic()
            peer.send_signal(how)
            await until(lambda: heard.ends, 10)
            return time.monotonic() - begun, heard.ends

    try:
        seconds, ends = run(main())
    finally:
        peer.kill()
        peer.wait()
        peer.stdout.close()

    assert ends == [grpc.StatusCode.UNAVAILABLE]
    assert seconds < within_s + 0.2  # a busy machine's


# Hostile clients --------------------------------------------------------------------------------------------------


class Raw:
    """A client that writes its frames by hand. Stream 1 is not open yet."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._unread = b""
        self.fields = Decoder()

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, served: Served, opening: bytes | None = None) -> AsyncIterator[Self]:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        raw = cls(reader, writer)
        raw.send(frames.PREFACE + frames.settings({}) if opening is None else opening)
        try:
            yield raw
        finally:
            writer.close()

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def frame(self, seconds: float = 5.0) -> tuple[int, int, int, bytes]:
        """The next one: kind, flags, stream and payload. Raises: EOFError."""
        async with asyncio.timeout(seconds):
            head = await self._reader.readexactly(9)
            high, low, kind, flags, number = frames.HEAD.unpack(head)
            assert high << 16 | low <= frames.DEFAULT_FRAME, "we have allowed no larger ones"
            return kind, flags, number, await self._reader.readexactly(high << 16 | low)

    async def until(self, kind: int, number: int | None = None, seconds: float = 5.0) -> bytes:
        while True:
            found = await self.frame(seconds)
            if found[0] == kind and number in (None, found[2]):
                return found[3]

    async def end(self) -> int | None:
        """The code that the connection ends with; None = it just ended."""
        try:
            code = (await self.until(frames.GOAWAY))[4:8]
        except (EOFError, ConnectionError):
            return None
        return int.from_bytes(code, "big")

    async def status(self, number: int, seconds: float = 5.0) -> int:
        """The status that a call ends with."""
        while True:
            kind, flags, found, payload = await self.frame(seconds)
            if kind == frames.HEADERS:
                block = payload
                while not flags & frames.END_HEADERS:
                    _, more, _, payload = await self.frame(seconds)
                    block, flags = block + payload, flags | more & frames.END_HEADERS
                fields = dict(self.fields.decode(block, raw=True))
                if found == number and flags & frames.END_STREAM:
                    return int(fields[b"grpc-status"])


def opening(number: int, name: str = "unary", flags: int = 0, more: bytes = b"") -> bytes:
    """A call's first frame."""
    block = b"\x83\x86" + literal(b":path", b"/t.T/" + name.encode()) + literal(b"content-type", b"application/grpc")
    return frames.fields(number, block + literal(b"te", b"trailers") + more, flags)  # codespell:ignore te


def by_path(path: str) -> bytes:
    block = b"\x83\x86" + literal(b":path", path.encode()) + literal(b"content-type", b"application/grpc")
    return frames.fields(1, block)


def data(number: int, payload: bytes, *, ends: bool = False) -> bytes:
    return frames.frame(frames.DATA, frames.END_STREAM if ends else 0, number, payload)


def call(number: int, name: str = "unary", message: bytes = b"", more: bytes = b"") -> bytes:
    return opening(number, name, more=more) + data(number, framed(message), ends=True)


@contextlib.asynccontextmanager
async def good_neighbour(served: Served) -> AsyncIterator[Counter[str]]:
    """A well-behaved client whose calls must all be answered, and soon, whatever the others do."""
    results: Counter[str] = Counter()
    stopping = asyncio.Event()

    async def caller(channel: aio.Channel) -> None:
        for i in itertools.count():
            begun = time.monotonic()
            answer = await ask(channel, "unary", b"%d" % i, timeout=10)
            results["right" if answer == b"%d" % i else "wrong"] += 1
            results["slow"] += time.monotonic() - begun > 3.0
            if stopping.is_set():
                return
            await asyncio.sleep(0.002)

    async with served.channel() as channel:
        calling = asyncio.create_task(caller(channel))
        await until(lambda: results["right"] or calling.done())
        yield results
        before = results["right"]
        await until(lambda: results["right"] > before or calling.done())
        stopping.set()
        await calling
    assert not results["wrong"]
    assert not results["slow"]


async def nothing_left(served: Served) -> None:
    """All clients are gone, and so is what they had here."""
    await until(lambda: not served.server.connections)
    await until(lambda: len([t for t in asyncio.all_tasks() if t.get_name() != "tick"]) <= 1)


EMPTY: Final = b""
MANY: Final = 1100
OVERFLOW: Final = frames.LARGEST_WINDOW
BLOCK: Final = opening(1)[9:]

VIOLATIONS: Final = {
    "data on no stream": (data(0, b"a"), frames.PROTOCOL_ERROR),
    "data on an idle stream": (data(1, b"a"), frames.PROTOCOL_ERROR),
    "data on a stream of ours": (call(3) + data(2, b"a"), frames.PROTOCOL_ERROR),
    "data after the end": (call(1, "sleep") + data(1, framed(b""), ends=True), frames.STREAM_CLOSED),
    "fields after the end": (call(1, "sleep") + opening(1, flags=frames.END_STREAM), frames.STREAM_CLOSED),
    "a second block that ends nothing": (opening(1) + opening(1), frames.PROTOCOL_ERROR),
    "fields on no stream": (frames.fields(0, BLOCK), frames.PROTOCOL_ERROR),
    "fields on a stream of ours": (frames.fields(2, BLOCK), frames.PROTOCOL_ERROR),
    "streams out of order": (call(3) + call(1), frames.PROTOCOL_ERROR),
    "a stream opened again": (call(1) + call(1), frames.PROTOCOL_ERROR),
    "a reset of no stream": (frames.reset(0, 8), frames.PROTOCOL_ERROR),
    "a reset of an idle stream": (frames.reset(1, 8), frames.PROTOCOL_ERROR),
    "a reset of three bytes": (call(1) + frames.frame(frames.RST_STREAM, 0, 1, b"abc"), frames.FRAME_SIZE_ERROR),
    "a window opened by nothing": (frames.window_update(0, 0), frames.PROTOCOL_ERROR),
    "a stream's window opened by nothing": (opening(1) + frames.window_update(1, 0), frames.PROTOCOL_ERROR),
    "a window of an idle stream": (frames.window_update(1, 1), frames.PROTOCOL_ERROR),
    "a window of three bytes": (frames.frame(frames.WINDOW_UPDATE, 0, 0, b"abc"), frames.FRAME_SIZE_ERROR),
    "a window too large": (frames.window_update(0, OVERFLOW), frames.FLOW_CONTROL_ERROR),
    "a stream's window too large": (opening(1) + frames.window_update(1, OVERFLOW), frames.FLOW_CONTROL_ERROR),
    "a window too large by settings": (
        opening(1)
        + frames.window_update(1, OVERFLOW - frames.DEFAULT_WINDOW)
        + frames.settings({frames.INITIAL_WINDOW_SIZE: frames.DEFAULT_WINDOW + 1}),
        frames.FLOW_CONTROL_ERROR,
    ),
    "settings of too large a window": (
        frames.settings({frames.INITIAL_WINDOW_SIZE: OVERFLOW + 1}),
        frames.FLOW_CONTROL_ERROR,
    ),
    "settings of a stream": (frames.frame(frames.SETTINGS, 0, 1, EMPTY), frames.PROTOCOL_ERROR),
    "settings of five bytes": (frames.frame(frames.SETTINGS, 0, 0, b"abcde"), frames.FRAME_SIZE_ERROR),
    "settings seen, with more": (frames.frame(frames.SETTINGS, 1, 0, b"abcdef"), frames.FRAME_SIZE_ERROR),
    "settings of small frames": (frames.settings({frames.MAX_FRAME_SIZE: 100}), frames.PROTOCOL_ERROR),
    "settings of huge frames": (frames.settings({frames.MAX_FRAME_SIZE: 1 << 24}), frames.PROTOCOL_ERROR),
    "settings of some push": (frames.settings({frames.ENABLE_PUSH: 2}), frames.PROTOCOL_ERROR),
    "a ping of seven bytes": (frames.frame(frames.PING, 0, 0, b"abcdefg"), frames.FRAME_SIZE_ERROR),
    "a ping on a stream": (frames.frame(frames.PING, 0, 1, b"abcdefgh"), frames.PROTOCOL_ERROR),
    "a goodbye on a stream": (frames.frame(frames.GOAWAY, 0, 1, bytes(8)), frames.PROTOCOL_ERROR),
    "a goodbye of seven bytes": (frames.frame(frames.GOAWAY, 0, 0, bytes(7)), frames.FRAME_SIZE_ERROR),
    "a priority of no stream": (frames.frame(frames.PRIORITY, 0, 0, bytes(5)), frames.PROTOCOL_ERROR),
    "a priority of four bytes": (frames.frame(frames.PRIORITY, 0, 1, bytes(4)), frames.FRAME_SIZE_ERROR),
    "a push": (frames.frame(frames.PUSH_PROMISE, 4, 1, bytes(4)), frames.PROTOCOL_ERROR),
    "more of no block": (frames.frame(frames.CONTINUATION, 4, 1, BLOCK), frames.PROTOCOL_ERROR),
    "more of another block": (
        frames.frame(frames.HEADERS, 0, 1, BLOCK) + frames.frame(frames.CONTINUATION, 4, 3, EMPTY),
        frames.PROTOCOL_ERROR,
    ),
    "a ping within a block": (
        frames.frame(frames.HEADERS, 0, 1, BLOCK) + frames.frame(frames.PING, 0, 0, bytes(8)),
        frames.PROTOCOL_ERROR,
    ),
    "a frame too large": (frames.frame(frames.DATA, 0, 1, bytes(16_385)), frames.FRAME_SIZE_ERROR),
    "padding without its length": (opening(1) + frames.frame(0, frames.PADDED, 1, EMPTY), frames.FRAME_SIZE_ERROR),
    "more padding than data": (opening(1) + frames.frame(0, frames.PADDED, 1, b"\x05abcd"), frames.PROTOCOL_ERROR),
    "fields that are none": (frames.fields(1, b"\xbe"), frames.COMPRESSION_ERROR),
    "fields that are none, for a refused call": (call(1, "none") + frames.fields(3, b"\xbf"), frames.COMPRESSION_ERROR),
    "fields that grow": (
        frames.fields(1, b"\x40\x01a\x7f\x81\x1e" + bytes(3968) + b"\xbe" * 20),
        frames.COMPRESSION_ERROR,
    ),
    "a block too large": (frames.fields(1, b"\x00\x01a\x00" * 10_000), frames.ENHANCE_YOUR_CALM),
    "more and more of nothing": (
        frames.frame(frames.HEADERS, 0, 1, BLOCK) + frames.frame(frames.CONTINUATION, 0, 1, EMPTY) * MANY,
        frames.ENHANCE_YOUR_CALM,
    ),
    "a flood of pings": (frames.frame(frames.PING, 0, 0, bytes(8)) * MANY, frames.ENHANCE_YOUR_CALM),
    "a flood of settings": (frames.settings({}) * MANY, frames.ENHANCE_YOUR_CALM),
    "a flood of settings seen": (frames.frame(frames.SETTINGS, 1, 0, EMPTY) * MANY, frames.ENHANCE_YOUR_CALM),
    "a flood of priorities": (frames.frame(frames.PRIORITY, 0, 1, bytes(5)) * MANY, frames.ENHANCE_YOUR_CALM),
    "a flood of frames nobody knows": (frames.frame(99, 0, 1, EMPTY) * MANY, frames.ENHANCE_YOUR_CALM),
    "a flood of empty data": (opening(1) + data(1, EMPTY) * MANY, frames.ENHANCE_YOUR_CALM),
    "a flood of padding": (
        opening(1) + frames.frame(0, frames.PADDED, 1, b"\x03abc") * MANY,
        frames.ENHANCE_YOUR_CALM,
    ),
    "pings paid for by data to nobody": (
        call(1, "none") + (data(1, b"a") + frames.frame(frames.PING, 0, 0, bytes(8))) * MANY,
        frames.ENHANCE_YOUR_CALM,
    ),
    "calls opened and reset": (
        b"".join(opening(n, "both") + frames.reset(n, 8) for n in range(1, 2 * MANY, 2)),
        frames.ENHANCE_YOUR_CALM,
    ),
    "more than the window takes": (
        opening(1, "deaf") + data(1, framed(b"a")) + data(1, bytes(16_384)) * 65,
        frames.FLOW_CONTROL_ERROR,
    ),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_client_that_breaks_http2_is_told_how_and_costs_nobody_else_a_call(run: Run, name: str) -> None:
    sent, expected = VIOLATIONS[name]

    async def main() -> int | None:
        async with serving() as served:
            async with good_neighbour(served), Raw.to(served) as raw:
                raw.send(sent)
                code = await raw.end()
                assert len(served.server.connections) <= 2
            await nothing_left(served)
            return code

    assert run(main()) == expected


@pytest.mark.parametrize(
    "first",
    [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01", frames.PREFACE + opening(1)],
    ids=["HTTP/1.1", "TLS", "a call before the settings"],
)
def test_who_does_not_open_as_a_client_must_is_told_so(run: Run, first: bytes) -> None:
    async def main() -> int | None:
        async with serving() as served:
            async with good_neighbour(served), Raw.to(served, first) as raw:
                code = await raw.end()
            await nothing_left(served)
            return code

    assert run(main()) == frames.PROTOCOL_ERROR


def test_what_may_come_late_or_is_unknown_is_ignored(run: Run) -> None:
    late = (
        frames.reset(1, 8) + frames.window_update(1, 1) + frames.frame(frames.PRIORITY, 0, 1, bytes(5))
        + data(1, b"late")
        + frames.frame(frames.PRIORITY, 0, 99, bytes(5)) + frames.frame(77, 0xFF, 1, b"?")
        + frames.frame(frames.SETTINGS, 0, 0, b"\xff\x03\x00\x00\x00\x01")
    )  # fmt: skip
    padded = b"\x04" + bytes(5) + BLOCK + bytes(4)
    flags = frames.PADDED | frames.WITH_PRIORITY | frames.END_HEADERS

    async def main() -> tuple[int, int, bytes]:
        async with serving() as served, Raw.to(served) as raw:
            raw.send(call(1))
            first = await raw.status(1)
            raw.send(late + frames.frame(frames.HEADERS, flags, 3, padded))
            raw.send(frames.frame(frames.DATA, frames.PADDED, 3, b"\x02" + framed(b"abc")[:6] + b"\0\0"))
            raw.send(frames.frame(frames.DATA, frames.PADDED | frames.END_STREAM, 3, b"\x03" + b"bc" + b"\0\0\0"))
            second = await raw.status(3)
            raw.send(frames.frame(frames.PING, 0, 0, b"12345678"))
            return first, second, await raw.until(frames.PING)

    assert run(main()) == (0, 0, b"12345678")


def test_a_status_longer_than_a_frame_goes_on_in_the_next(run: Run) -> None:
    async def main() -> int:
        async with serving() as served, Raw.to(served) as raw:
            raw.fields.max_header_list_size = 100_000
            raw.send(call(1, "lament", b"40000"))
            return await raw.status(1)

    assert run(main()) == grpc.StatusCode.FAILED_PRECONDITION.value[0]


def test_a_frame_of_single_bytes_is_read_as_one(run: Run) -> None:
    async def main() -> int:
        async with serving() as served, Raw.to(served, b"") as raw:
            for byte in frames.PREFACE + frames.settings({}) + call(1, message=b"slowly"):
                raw.send(bytes([byte]))
                await asyncio.sleep(0)
            return await raw.status(1)

    assert run(main()) == 0


def test_fields_of_a_refused_call_still_count_for_the_table(run: Run) -> None:
    async def main() -> tuple[int, int]:
        encoder = Encoder()
        start = [(":method", "POST"), (":scheme", "http")]
        rest = [("content-type", "application/grpc"), ("x-a", "1")]
        async with serving() as served, Raw.to(served) as raw:
            raw.send(frames.fields(1, encoder.encode([*start, (":path", "/no.No/no"), *rest]), frames.END_STREAM))
            raw.send(frames.fields(3, encoder.encode([*start, (":path", "/t.T/unary"), *rest])))
            raw.send(data(3, framed(b""), ends=True))
            return await raw.status(1), await raw.status(3)

    assert run(main()) == (grpc.StatusCode.UNIMPLEMENTED.value[0], 0)


def test_a_client_without_a_table_can_read_our_answers(run: Run) -> None:
    async def main() -> list[int]:
        async with serving() as served:
            async with Raw.to(served, frames.PREFACE + frames.settings({frames.HEADER_TABLE_SIZE: 0})) as raw:
                raw.fields.max_allowed_table_size = 0
                raw.send(call(1) + call(3, "refuse") + call(5, "none") + call(7, "many", b"2"))
                return [await raw.status(number) for number in (5,)] + [await raw.status(7)]

    assert run(main()) == [grpc.StatusCode.UNIMPLEMENTED.value[0], 0]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (opening(1, flags=frames.END_STREAM), "INTERNAL"),
        (opening(1) + data(1, b"", ends=True), "INTERNAL"),
        (opening(1) + data(1, framed(b"abc")[:-1], ends=True), "INTERNAL"),
        (opening(1) + data(1, framed(b"a") * 2, ends=True), "INTERNAL"),
        (opening(1) + data(1, framed(b"a")) + data(1, framed(b"b")) + data(1, b"", ends=True), "INTERNAL"),
        (opening(1) + data(1, b"\x01\0\0\0\x01a", ends=True), "INTERNAL"),
        (opening(1, "count") + data(1, framed(b"abc")[:-1], ends=True), "INTERNAL"),
        (opening(1, more=literal(b"grpc-timeout", b"soon")) + data(1, framed(b""), ends=True), "INTERNAL"),
        (opening(1, more=literal(b"a-bin", b"?")) + data(1, framed(b""), ends=True), "INTERNAL"),
        (opening(1, more=literal(b"a", bytes(20_000))) + data(1, framed(b""), ends=True), "RESOURCE_EXHAUSTED"),
        (
            opening(1, more=literal(b"grpc-encoding", b"br")) + data(1, b"\x01" + framed(b"a")[1:], ends=True),
            "UNIMPLEMENTED",
        ),
        (opening(1, "count") + data(1, b"\0\xff\xff\xff\xff"), "RESOURCE_EXHAUSTED"),
        (opening(1) + data(1, b"\0\xff\xff\xff\xff"), "RESOURCE_EXHAUSTED"),
    ],
    ids=[
        "no message",
        "an empty end",
        "cut short",
        "two in one frame",
        "two in two",
        "compressed in no way",
        "a stream cut short",
        "no timeout",
        "no base64",
        "too much metadata",
        "compressed in some way",
        "a huge one in a stream",
        "a huge one",
    ],
)
def test_a_call_that_is_none_fails_alone(run: Run, sent: bytes, code: str) -> None:
    async def main() -> tuple[int, int, int]:
        async with serving() as served, Raw.to(served) as raw:
            raw.send(sent)
            first = await raw.status(1)
            raw.send(call(99))
            second = await raw.status(99)
            (ours,) = served.server.connections
            return first, second, len(ours.streams) + ours._kept

    assert run(main()) == (grpc.StatusCode[code].value[0], 0, 0)


def test_an_html_request_is_told_that_this_is_grpc(run: Run) -> None:
    async def main() -> dict[bytes, bytes]:
        async with serving() as served, Raw.to(served) as raw:
            raw.send(frames.fields(1, b"\x82\x86\x84", frames.END_STREAM))
            return dict(raw.fields.decode(await raw.until(frames.HEADERS), raw=True))

    assert run(main()) == {b":status": b"415"}


def test_calls_reset_as_fast_as_they_come_run_no_further(run: Run) -> None:
    async def main() -> tuple[int, int]:
        async with serving() as served:
            async with good_neighbour(served), Raw.to(served) as raw:
                for number in range(1, 10_001, 2):
                    raw.send(call(number, "sleep") + frames.reset(number, 8))
                raw.send(call(10_001))
                status = await raw.status(10_001, 20)
                running = sum(len(one.running) for one in served.server.connections)
            await nothing_left(served)
            return status, running

    status, running = run(main())

    assert status == 0
    assert running <= 1


def test_calls_over_the_limit_are_refused_unseen(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_CALLS", 10)

    async def main() -> tuple[int, int]:
        async with serving() as served, Raw.to(served) as raw:
            raw.send(b"".join(call(number, "sleep") for number in range(1, 25, 2)))
            refused = await raw.until(frames.RST_STREAM, 21), await raw.until(frames.RST_STREAM, 23)
            return int.from_bytes(refused[0], "big"), served.handlers.begun["sleep"]

    assert run(main()) == (frames.REFUSED_STREAM, 10)


def test_a_deadline_passes_though_its_caller_says_nothing(run: Run) -> None:
    async def main() -> tuple[int, int]:
        async with serving() as served, Raw.to(served) as raw:
            raw.send(call(1, "sleep", more=literal(b"grpc-timeout", b"100m")))
            status = await raw.status(1)
            await asyncio.wait_for(served.handlers.cancelled.wait(), 1)
            (ours,) = served.server.connections
            await until(lambda: not ours.running)
            return status, len(ours.streams)

    assert run(main()) == (grpc.StatusCode.DEADLINE_EXCEEDED.value[0], 0)


def test_who_says_nothing_is_asked_and_then_dropped(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "TICK_S", 0.125)
    monkeypatch.setattr(server_module, "KEEPALIVE_S", 0.5)
    monkeypatch.setattr(server_module, "HANDSHAKE_S", 0.5)

    async def main() -> tuple[bytes, int]:
        async with serving() as served, good_neighbour(served), contextlib.AsyncExitStack() as stack:
            for _ in range(300):
                await stack.enter_async_context(Raw.to(served, b"PRI"))
            await until(lambda: len(served.server.connections) == 301)
            silent = await stack.enter_async_context(Raw.to(served))
            asked = await silent.until(frames.PING)
            with pytest.raises((EOFError, ConnectionError)):
                await silent.until(frames.GOAWAY)
            await until(lambda: len(served.server.connections) == 1)
            return asked, len(served.server.connections)

    assert run(main()) == (b"headrace", 1)


# Windows ----------------------------------------------------------------------------------------------------------


async def body(raw: Raw, number: int) -> int:
    """Bytes of data that come on one stream until it ends, opening no window."""
    size = 0
    while True:
        kind, flags, found, payload = await raw.frame()
        if found == number and kind == frames.DATA:
            size += len(payload)
        if found == number and flags & frames.END_STREAM:
            return size


def test_a_window_that_shrinks_below_nothing_holds_the_answer_until_it_opens(run: Run) -> None:
    async def main() -> tuple[int, int, int]:
        async with serving() as served, Raw.to(served) as raw:
            raw.send(call(1, "sized", b"100000"))
            first = 0
            while first < frames.DEFAULT_WINDOW:
                first += len(await raw.until(frames.DATA, 1))
            raw.send(frames.window_update(0, 1 << 20) + frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
            raw.send(frames.window_update(1, 65_000))  # still 535 below nothing
            raw.send(call(3))
            raw.send(frames.frame(frames.PING, 0, 0, bytes(8)))
            early = 0
            while (found := await raw.frame())[0] != frames.PING:
                early += len(found[3]) if found[0] == frames.DATA else 0
            raw.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 20}))
            rest = await body(raw, 1)
            return first, early, first + rest

    assert run(main()) == (frames.DEFAULT_WINDOW, 0, 100_005)


def test_a_large_answer_does_not_hold_up_a_small_one_behind_it(run: Run) -> None:
    async def main() -> int:
        async with serving() as served:
            async with Raw.to(served, frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 30})) as raw:
                raw.send(call(1, "sized", b"10000000"))
                large = 0
                while large < frames.DEFAULT_WINDOW:
                    large += len(await raw.until(frames.DATA, 1))
                raw.send(call(3, "sized", b"10000"))
                while True:
                    raw.send(frames.window_update(0, 40_000))
                    got = 0
                    while got < 40_000:
                        kind, flags, number, payload = await raw.frame()
                        if number == 3 and flags & frames.END_STREAM:
                            return large
                        got += len(payload) if kind == frames.DATA else 0
                        large += len(payload) if (kind, number) == (frames.DATA, 1) else 0

    assert run(main()) < 300_000


def test_windows_opened_byte_by_byte_cost_no_walk_over_all_streams(run: Run) -> None:
    count = 3000

    async def main() -> float:
        async with serving() as served:
            async with Raw.to(served, frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 0})) as raw:
                for number in range(1, 2 * count, 2):
                    raw.send(call(number, "sized", b"100"))
                await until(lambda: sum(len(one.streams) for one in served.server.connections) == count, 20)
                (ours,) = served.server.connections
                await until(lambda: not ours.running)
                begun = time.process_time()
                raw.send(frames.window_update(0, 1) * 20_000)
                for size in range(10):
                    raw.send(
                        frames.settings({})
                        + frames.frame(frames.SETTINGS, 0, 0, (b"\0\4\0\0\0" + bytes([size, 0, 4, 0, 0, 0, 0])) * 1300)
                    )
                raw.send(frames.frame(frames.PING, 0, 0, bytes(8)))
                await raw.until(frames.PING, seconds=50)
                return time.process_time() - begun

    assert run(main()) < 3.0


def test_an_upload_is_held_back_by_who_does_not_read_and_goes_on_when_it_does(run: Run) -> None:
    async def main() -> tuple[int, int, int]:
        async with serving() as served, calling(served.address) as channel:
            heard = Heard()
            stream = await channel.stream("/t.T/deaf", heard.messages.append, heard.on_end)
            for _ in range(64):
                stream.send(bytes(1 << 17))
            stream.send(b"", ends=True)
            await until(lambda: served.server.connections)
            (ours,) = served.server.connections
            await until(lambda: ours._kept > 1_000_000)
            await channel.unary("/t.T/unary", b"", 5.0)
            held = ours._kept
            served.handlers.go.set()
            await until(lambda: heard.ends, 20)
            return held, ours._kept, heard.ends[0].value[0]

    held, after, code = run(main())

    assert held <= connection_module.STREAM_WINDOW
    assert (after, code) == (0, 0)


def test_bombs_that_nobody_reads_take_the_room_they_came_in(run: Run) -> None:
    bomb = gzip.compress(bytes(16 << 20))
    message = b"\x01" + framed(bomb)[1:]

    async def main() -> int:
        async with serving() as served, Raw.to(served) as raw:
            raw.send(opening(1, "deaf", more=literal(b"grpc-encoding", b"gzip")))
            for at in range(0, len(message * 20), 16_000):
                raw.send(data(1, (message * 20)[at : at + 16_000]))
            await until(lambda: served.server.connections)
            (ours,) = served.server.connections
            await until(lambda: ours._kept == 20 * len(message))
            return len(ours.streams[1].reader)

    assert run(main()) == 20 * len(message)


def test_unfinished_messages_are_bounded_and_given_back(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_KEPT", 100_000)

    async def main() -> tuple[int, int, int]:
        async with serving() as served, Raw.to(served) as raw:
            half = framed(bytes(60_000))[:16_000]
            raw.send(
                b"".join(
                    opening(number, name) + data(number, half) * 4 for number, name in ((1, "unary"), (3, "count"))
                )
            )
            status = await raw.status(3)
            raw.send(frames.reset(1, 8) + call(5))
            after = await raw.status(5)
            (ours,) = served.server.connections
            return status, after, ours._kept

    assert run(main()) == (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], 0, 0)


def test_a_client_that_never_reads_is_sent_no_more_and_holds_up_nobody(run: Run) -> None:
    greedy = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: OVERFLOW}) + frames.window_update(0, 1 << 30)

    async def main() -> tuple[int, int]:
        async with serving() as served:
            async with good_neighbour(served), Raw.to(served, greedy) as raw:
                raw.send(call(1, "flood", b"100000"))
                raw._writer.transport.pause_reading()
                produced = -1
                while produced != served.handlers.produced:
                    produced = served.handlers.produced
                    await asyncio.sleep(0.3)
                raw._writer.transport.abort()
                await asyncio.wait_for(served.handlers.cancelled.wait(), 5)
            await nothing_left(served)
            return produced, served.handlers.produced

    produced, after = run(main())

    assert produced * 100_000 < 40 << 20  # what sockets hold, and UNREAD_BYTES
    assert after <= produced + 1


def test_a_connection_that_broke_lets_go_of_its_calls_though_it_is_not_read(run: Run) -> None:
    greedy = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: OVERFLOW}) + frames.window_update(0, 1 << 30)

    async def main() -> float:
        async with serving() as served:
            async with Raw.to(served, greedy) as raw:
                raw._writer.transport.pause_reading()
                raw.send(b"".join(call(number, "sized", b"1000000") for number in (1, 3, 5, 7)))
                raw.send(call(9, "sleep"))
                await until(lambda: served.handlers.begun["sleep"])
                begun = time.monotonic()
                raw.send(data(2, b"a"))
                await asyncio.wait_for(served.handlers.cancelled.wait(), 5)
                await nothing_left(served)
                return time.monotonic() - begun

    assert run(main()) < 2.0


def test_one_of_several_writers_that_is_cancelled_takes_no_other_with_it(run: Run) -> None:
    async def main() -> int:
        served_calls: list[Any] = []

        async def writers(_: Any, rpc: Any) -> None:
            served_calls.append(rpc)
            tasks = [asyncio.create_task(rpc.write(bytes(10))) for _ in range(3)]
            await asyncio.sleep(0.05)
            tasks[0].cancel()
            await asyncio.gather(*tasks[1:])

        async with serving() as served:
            handler = grpc.stream_stream_rpc_method_handler(writers)
            served.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.W", {"w": handler}),))
            async with Raw.to(served, frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 0})) as raw:
                raw.send(by_path("/t.W/w"))
                await until(lambda: served_calls)
                await asyncio.sleep(0.1)
                raw.send(frames.window_update(1, 10_000))
                return await raw.status(1)

    assert run(main()) == 0


def test_a_writer_whose_caller_has_left_is_not_left_waiting(run: Run) -> None:
    async def main() -> bool:
        writing: list[asyncio.Task[None]] = []

        async def writers(_: Any, rpc: Any) -> None:
            writing.append(asyncio.create_task(rpc.write(bytes(10))))
            await asyncio.sleep(60)

        async with serving() as served:
            handler = grpc.stream_stream_rpc_method_handler(writers)
            served.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.W", {"w": handler}),))
            async with Raw.to(served, frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 0})) as raw:
                raw.send(by_path("/t.W/w"))
                await until(lambda: writing)
                await asyncio.sleep(0.05)
                assert not writing[0].done()
                raw.send(frames.reset(1, 8))
                await until(writing[0].done)
                return writing[0].cancelled()

    assert run(main()) is False


def test_a_stop_does_not_wait_for_a_handler_that_will_not_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "CLEAN_UP_S", 0.2)

    async def main() -> float:
        stubborn = asyncio.Event()

        async def never(_: bytes, __: Any) -> bytes:
            while not stubborn.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await stubborn.wait()
            return b""

        async with serving() as served, served.channel() as channel:
            handler = grpc.unary_unary_rpc_method_handler(never)
            served.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.N", {"n": handler}),))
            asking = channel.unary_unary("/t.N/n")(b"")
            await until(lambda: any(one.running for one in served.server.connections))
            begun = time.monotonic()
            try:
                await asyncio.wait_for(served.server.stop(0.1), 5)
                return time.monotonic() - begun
            finally:
                stubborn.set()
                asking.cancel()

    assert run(main()) < 2.0


# Anything ---------------------------------------------------------------------------------------------------------

SESSION: Final = (
    call(1, message=b"a" * 100) + call(3, "many", b"50") + opening(5, "both") + data(5, framed(b"x") * 3)
    + frames.frame(frames.PING, 0, 0, bytes(8)) + call(7, "refuse") + frames.window_update(0, 1000)
    + data(5, framed(b"y" * 200)[:50]) + frames.settings({frames.INITIAL_WINDOW_SIZE: 10}) + call(9, "sized", b"5000")
    + data(5, framed(b"y" * 200)[50:], ends=True) + frames.reset(3, 8) + frames.window_update(9, 4000)
    + frames.settings({frames.INITIAL_WINDOW_SIZE: 0, frames.HEADER_TABLE_SIZE: 0}) + call(11, "fail")
    + opening(13, more=b"\x40\x01a\x01b") + data(13, framed(b""), ends=True) + frames.fields(15, b"\xbe" + BLOCK)
)  # fmt: skip


class Wire(asyncio.Transport):
    """Takes what is written, and forgets it."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = False

    def write(self, _: bytes) -> None:  # type: ignore[override]
        assert not self.ended

    def close(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.ended

    def abort(self) -> None:
        self.ended = True

    def write_eof(self) -> None:
        self.ended = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


def mutated(source: random.Random) -> bytes:
    """The session with a few bytes changed, cut out, doubled or put elsewhere."""
    found = bytearray(SESSION)
    for _ in range(source.randrange(1, 8)):
        at, size = source.randrange(len(found)), source.randrange(1, 40)
        match source.randrange(4):
            case 0:
                found[at] = source.randrange(256)
            case 1:
                del found[at : at + size]
            case 2:
                found[at:at] = found[at : at + size]
            case 3:
                found[at:at] = source.randbytes(size)
    return bytes(found)


async def fed(sent: bytes, cuts: list[int]) -> None:
    """One connection without a socket takes all that, and leaves nothing."""
    server = Server()
    Handlers().join(server)
    connection = ServerConnection(server)
    wire = Wire()
    connection.connection_made(wire)
    places = sorted({0, len(sent), *[cut % (len(sent) + 1) for cut in cuts]})
    for at, end in itertools.pairwise(places):
        connection.data_received(sent[at:end])
        await asyncio.sleep(0)
    connection.tick()
    await asyncio.sleep(0)
    connection.connection_lost(None)
    for _ in range(50):
        if not connection.running:
            break
        await asyncio.sleep(0)
    assert not connection.running
    assert not connection.streams
    assert not connection._held
    assert connection._kept == 0
    assert not server.connections


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.booleans(), st.lists(st.integers(0, 500), max_size=5))
def test_random_bytes_end_a_connection_and_nothing_else(sent: bytes, opened: bool, cuts: list[int]) -> None:  # noqa: FBT001
    asyncio.run(fed((frames.PREFACE + frames.settings({}) if opened else b"") + sent, cuts))


def test_no_mutation_of_a_session_meets_an_error_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        for seed in range(1500):
            source = random.Random(seed)
            sent = frames.PREFACE + frames.settings({}) + mutated(source)
            await fed(sent, [source.randrange(len(sent)) for _ in range(source.randrange(6))])

    with caplog.at_level(logging.ERROR, "headrace.rpc"):
        asyncio.run(main())

    assert "a connection failed on an error of ours" not in caplog.text


def test_a_good_client_gets_right_answers_beside_any_mutation(run: Run) -> None:
    async def main() -> Counter[str]:
        async with serving() as served:
            async with good_neighbour(served) as results:
                for seed in range(200):
                    async with Raw.to(served) as raw:
                        raw.send(mutated(random.Random(seed)))
                        with contextlib.suppress(EOFError, ConnectionError, TimeoutError):
                            while True:
                                await raw.frame(0.01)
            await nothing_left(served)
            return results

    results = run(main())

    assert results["right"] > 50
