"""Connections of an age are told to go, and no call is lost by it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc import aio
from hypothesis import given
from hypothesis import strategies as st
from tests.certificates import Authority
from tests.rpc import Raw, Run, ask, call, data, opening, serving, until
from tritonclient.grpc import service_pb2_grpc

from headrace.client import request
from headrace.rpc import frames
from headrace.rpc.age import Age
from headrace.rpc.messages import framed
from headrace.rpc.server import Server
from headrace.rpc.tls import TlsFiles, Watched, server_context
from headrace.testing.gateway import running_gateway
from headrace.testing.replica import FakeReplica

AGES = 8
"""How many connections each client shall have had."""
OWN = (("grpc.use_local_subchannel_pool", 1),)
"""A connection of its own for each channel; else as any client has them, without a policy of retries."""


def aged(most_s: float = 0.1, grace_s: float = 10.0) -> Callable[[], Server]:
    """A server that also answers with the address its caller comes from."""

    async def peer(_: bytes, rpc: Any) -> bytes:
        await asyncio.sleep(0.005)
        return str(rpc.peer()).encode()

    def make() -> Server:
        server = Server(age=Age(most_s, grace_s))
        methods = {"peer": grpc.unary_unary_rpc_method_handler(peer)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.A", methods),))
        return server

    return make


def last(goaway: bytes) -> int:
    """The highest stream that a goodbye allows."""
    return int(frames.UINT32.unpack_from(goaway)[0])


@contextlib.asynccontextmanager
async def counted(*ports: int) -> AsyncIterator[tuple[int, list[int], list[int]]]:
    """A port in front of others, the connections that came through it, and where the next goes: the first of these."""
    made: list[int] = []
    targets = list(ports)

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while some := await reader.read(1 << 16):
                writer.write(some)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.append(targets[0])
        there, back = await asyncio.open_connection("127.0.0.1", targets[0])
        await asyncio.gather(copy(reader, back), copy(there, writer))

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], made, targets


def test_callers_of_every_kind_change_connections_under_load_without_a_failed_call(run: Run) -> None:
    results: Counter[str] = Counter()

    async def caller(channel: aio.Channel, seen: set[bytes]) -> None:
        method = channel.unary_unary("/a.A/peer")
        while len(seen) < AGES:
            try:
                seen.add(await method(b"", timeout=10))
                results["OK"] += 1
            except aio.AioRpcError as error:
                results[f"{error.code().name}: {error.details()}"] += 1

    def blocking(address: str) -> None:
        seen: set[bytes] = set()
        with grpc.insecure_channel(address, OWN) as channel:
            method = channel.unary_unary("/a.A/peer")
            while len(seen) < AGES:
                try:
                    seen.add(method(b"", timeout=10))
                    results["OK"] += 1
                except grpc.RpcError as error:
                    results[str(error)] += 1

    async def main() -> None:
        async with serving(aged()) as served, contextlib.AsyncExitStack() as stack:
            channels = [aio.insecure_channel(served.address, OWN) for _ in range(3)]
            tasks = [asyncio.to_thread(blocking, served.address)]
            for channel in channels:
                await stack.enter_async_context(channel)
                seen: set[bytes] = set()
                tasks += [caller(channel, seen) for _ in range(8)]
            await asyncio.gather(*tasks)

    run(main())

    assert set(results) == {"OK"}
    assert results["OK"] > 4 * AGES


def test_a_call_that_runs_when_its_connection_is_old_goes_on_and_the_next_takes_another(run: Run) -> None:
    async def main() -> tuple[list[bytes], int]:
        async with serving(aged(0.1)) as served, served.channel() as channel:
            stream = channel.stream_stream("/t.T/both")()
            await stream.write(b"0")
            answers = [await stream.read()]
            first = set(served.server.connections)
            await until(lambda: all(connection.refusing for connection in first))
            await ask(channel, "unary", b"on another one")
            others = len(served.server.connections - first)
            for word in (b"1", b"2"):
                await stream.write(word)
                answers.append(await stream.read())
            await stream.done_writing()
            assert await stream.code() is grpc.StatusCode.OK
            return answers, others

    assert run(main()) == ([b"0", b"1", b"2"], 1)


def test_what_was_opened_before_the_goodbye_was_read_is_taken_and_what_comes_after_is_not(run: Run) -> None:
    async def main() -> tuple[list[int], list[int], bytes]:
        async with serving(aged(0.05)) as served, Raw.to(served) as raw:
            lasts = [last(await raw.until(frames.GOAWAY))]
            ping = await raw.until(frames.PING)
            raw.send(call(1) + call(3))
            codes = [await raw.status(1), await raw.status(3)]
            raw.send(frames.frame(frames.PING, frames.ACK, 0, ping))
            lasts.append(last(await raw.until(frames.GOAWAY)))
            raw.send(call(5))
            return lasts, codes, await raw.until(frames.RST_STREAM, 5)

    lasts, codes, reset = run(main())

    assert lasts == [frames.LAST_STREAM, 3]
    assert codes == [0, 0]
    assert reset == frames.UINT32.pack(frames.REFUSED_STREAM)


def test_who_stays_is_cut_off_after_the_grace_with_what_still_runs(run: Run) -> None:
    async def main() -> None:
        async with serving(aged(0.05, grace_s=0.2)) as served, Raw.to(served) as raw:
            raw.send(call(1, "sleep"))
            with pytest.raises(EOFError):  # noqa: PT012  whatever comes before
                while True:
                    await raw.frame()
            await asyncio.wait_for(served.handlers.cancelled.wait(), 5)
            await until(lambda: not served.server.connections)

    run(main())


def test_a_goodbye_is_never_taken_back(run: Run) -> None:
    """A server that stops has said which calls were the last before age does."""

    async def main() -> list[int]:
        async with serving(aged(0.2)) as served, Raw.to(served) as raw:
            raw.send(call(1) + opening(3, "sleep") + data(3, framed(b""), ends=True))
            await raw.status(1)
            stopping = asyncio.create_task(served.server.stop(0.5))
            lasts = []
            with contextlib.suppress(EOFError):
                while True:
                    kind, _, _, payload = await raw.frame()
                    lasts += [last(payload)] if kind == frames.GOAWAY else []
            await stopping
            return lasts

    lasts = run(main())

    assert set(lasts) == {3}


def test_what_is_refused_after_the_last_goodbye_raises_none_that_follows(run: Run) -> None:
    """RFC 9113, 6.8: clients end a connection whose goodbye allows more than one before, with all that runs there."""

    async def main() -> list[int]:
        async with serving() as served, Raw.to(served) as raw:
            raw.send(opening(1, "sleep") + data(1, framed(b""), ends=True))
            await until(lambda: served.handlers.begun["sleep"] == 1)
            stopping = asyncio.create_task(served.server.stop(0.3))
            lasts = [last(await raw.until(frames.GOAWAY))]
            raw.send(call(3))
            await raw.until(frames.RST_STREAM, 3)
            with contextlib.suppress(EOFError):
                while True:
                    kind, _, _, payload = await raw.frame()
                    lasts += [last(payload)] if kind == frames.GOAWAY else []
            await stopping
            return lasts

    assert set(run(main())) == {1}


def test_who_stops_gives_what_runs_its_own_time_and_not_that_of_age(run: Run) -> None:
    """A gateway that drains has promised its callers `drain_s`."""

    async def main() -> bytes:
        async with serving(aged(60.0, grace_s=0.05)) as served, served.channel() as channel:
            stream = channel.stream_stream("/t.T/both")()
            await stream.write(b"0")
            await stream.read()
            await served.server.say_goodbye(5)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stream.code(), 0.3)  # it would come if it were cut off
            await stream.write(b"1")
            return bytes(await stream.read())

    assert run(main()) == b"1"


def test_who_has_only_just_come_hears_the_goodbye_with_the_first_call(run: Run) -> None:
    """Together with the first settings some of gRPC's clients would wait for their deadlines."""

    async def main() -> tuple[list[int], int, int]:
        async with serving() as served, Raw.to(served) as raw:
            await raw.until(frames.SETTINGS)
            goodbye = asyncio.create_task(served.server.say_goodbye(5))
            await asyncio.sleep(0.1)  # it would be on its way
            raw.send(frames.frame(frames.PING, 0, 0, bytes(8)))
            kinds = []
            while not kinds or kinds[-1] != frames.PING:
                kinds.append((await raw.frame())[0])
            raw.send(call(1))
            told = last(await raw.until(frames.GOAWAY))
            status = await raw.status(1)
            raw.send(frames.frame(frames.PING, frames.ACK, 0, b"farewell"))
            await goodbye
            return kinds, told, status

    kinds, told, status = run(main())

    assert frames.GOAWAY not in kinds
    assert (told, status) == (frames.LAST_STREAM, 0)


def test_who_has_come_and_says_nothing_hears_the_goodbye_soon(run: Run) -> None:
    async def main() -> tuple[int, float]:
        async with serving() as served, Raw.to(served) as raw:
            await raw.until(frames.SETTINGS)
            begun = time.monotonic()
            goodbye = asyncio.create_task(served.server.say_goodbye(5))
            told = last(await raw.until(frames.GOAWAY))
            took = time.monotonic() - begun
            raw.send(frames.frame(frames.PING, frames.ACK, 0, b"farewell"))
            await goodbye
            return told, took

    told, took = run(main())

    assert told == frames.LAST_STREAM
    assert took < 3


def test_grpcs_clients_that_come_while_it_leaves_are_answered(run: Run) -> None:
    async def main() -> list[bytes]:
        answers = []
        for number in range(40):
            async with serving() as served, served.channel() as channel:
                served.server.leaving = True
                answers.append(await channel.unary_unary("/t.T/unary")(b"%d" % number, timeout=5))
        return answers

    assert run(main()) == [b"%d" % number for number in range(40)]


def test_a_server_that_stops_cuts_off_who_has_only_just_come(run: Run) -> None:
    """As if it had come a moment later: with a goodbye some of gRPC's clients would wait for their deadlines."""

    async def main() -> tuple[int, list[int]]:
        async with serving() as served, Raw.to(served) as raw:
            first = (await raw.frame())[0]
            await served.server.stop(None)
            kinds = []
            with contextlib.suppress(EOFError, ConnectionError):
                while True:
                    kinds.append((await raw.frame())[0])
            return first, kinds

    first, kinds = run(main())

    assert first == frames.SETTINGS
    assert frames.GOAWAY not in kinds


def test_an_answer_to_a_ping_that_was_never_sent_ends_nothing(run: Run) -> None:
    async def main() -> int:
        async with serving(aged(60.0)) as served, Raw.to(served) as raw:
            raw.send(frames.frame(frames.PING, frames.ACK, 0, b"farewell") + call(1))
            return await raw.status(1)

    assert run(main()) == 0


def test_connections_over_tls_grow_old_as_well(run: Run, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("server")
    files = TlsFiles(own.certificate, own.key, None)

    async def main() -> set[bytes]:
        server = aged()()
        port = server.add_secure_port("127.0.0.1:0", Watched(files.all(), lambda: server_context(files)))
        await server.start()
        trusted = grpc.ssl_channel_credentials(authority.path.read_bytes())
        async with aio.secure_channel(f"127.0.0.1:{port}", trusted, OWN) as channel:
            seen: set[bytes] = set()
            while len(seen) < 3:
                seen.add(await channel.unary_unary("/a.A/peer")(b"", timeout=10))
        await server.stop(None)
        return seen

    assert len(run(main())) == 3


@given(st.floats(0.001, 1e6))
def test_ages_differ_by_a_tenth_at_most_and_are_not_alike(most_s: float) -> None:
    drawn = [Age(most_s, 1.0).drawn_s() for _ in range(20)]

    assert all(0.9 * most_s <= age <= 1.1 * most_s for age in drawn)
    assert len(set(drawn)) > 1


def test_callers_of_a_gateway_that_drains_go_on_at_another_without_a_failed_request(run: Run, tmp_path: Path) -> None:
    """Behind what knows where new connections go, as a Service does once a pod is not ready."""
    results: Counter[str] = Counter()
    stopping = asyncio.Event()

    async def caller(channel: aio.Channel) -> None:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        columns = {"events": np.ones((1, 2, 2), np.float32), "key": np.array([[7]], np.int64)}
        while not stopping.is_set():
            try:
                answer = await stub.ModelInfer(request("echo", columns), timeout=10)
                results[str(float(np.frombuffer(answer.raw_output_contents[0])[0]))] += 1
            except aio.AioRpcError as error:
                results[f"{error.code().name}: {error.details()}"] += 1

    async def main() -> list[int]:
        async with contextlib.AsyncExitStack() as stack:
            replica = await stack.enter_async_context(FakeReplica())
            one, _ = await stack.enter_async_context(running_gateway(tmp_path, [replica]))
            two, _ = await stack.enter_async_context(running_gateway(tmp_path, [replica]))
            port, made, targets = await stack.enter_async_context(counted(one.port, two.port))
            channels = [aio.insecure_channel(f"127.0.0.1:{port}", OWN) for _ in range(3)]
            callers = [asyncio.create_task(caller(channel)) for channel in channels for _ in range(8)]
            await until(lambda: results["11.0"] > 200, 20)
            del targets[0]
            await one.stop()
            before = results["11.0"]
            await until(lambda: results["11.0"] > before + 200, 20)
            stopping.set()
            await asyncio.gather(*callers)
            for channel in channels:
                await channel.close()
            return [made.count(gateway.port) for gateway in (one, two)]

    made = run(main())

    assert set(results) == {"11.0"}
    assert made == [3, 3]


def test_tritons_clients_move_on_to_other_connections_and_lose_no_request(run: Run, tmp_path: Path) -> None:
    results: Counter[str] = Counter()
    stopping = threading.Event()

    def client(port: int) -> None:
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            events, key = triton.InferInput("events", [1, 2, 2], "FP32"), triton.InferInput("key", [1, 1], "INT64")
            events.set_data_from_numpy(np.ones((1, 2, 2), np.float32))
            key.set_data_from_numpy(np.array([[7]], np.int64))
            while not stopping.is_set():
                try:
                    answer = client.infer("echo", [events, key], client_timeout=10)
                    results[f"{float(answer.as_numpy('sum')[0, 0])}"] += 1
                except triton.InferenceServerException as error:
                    results[str(error)] += 1

    async def main() -> None:
        flags = {"gateway__max_connection_age_s": 0.1, "gateway__max_connection_age_grace_s": 5}
        async with (
            FakeReplica() as replica,
            running_gateway(tmp_path, [replica], **flags) as (gateway, _),
            counted(gateway.port) as (port, made, _),
        ):
            clients = [asyncio.create_task(asyncio.to_thread(client, port)) for _ in range(3)]
            await until(lambda: len(made) >= 3 * AGES, 30)
            stopping.set()
            await asyncio.gather(*clients)

    run(main())

    assert set(results) == {"11.0"}
    assert results["11.0"] > 3 * AGES
