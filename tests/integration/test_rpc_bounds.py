"""Clients that are too many, or too slow: each is told so, is counted, and costs the others nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from tests.certificates import Authority
from tests.rpc import Raw, Run, Served, call, data, framed, good_neighbour, nothing_left, opening, serving, until

from headrace.rpc import calls, frames
from headrace.rpc import port as port_module
from headrace.rpc import server as server_module
from headrace.rpc.bounds import Bounds, Crowd
from headrace.rpc.calls import ServerConnection
from headrace.rpc.fields import literal
from headrace.rpc.messages import Failure
from headrace.rpc.methods import Rule
from headrace.rpc.server import Server
from headrace.rpc.tls import TlsFiles, Watched, client_context, server_context

SLOW = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


def bounded(**bounds: Any) -> Callable[[], Server]:
    return lambda: Server(bounds=Bounds(**bounds))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds pass sixteen times as fast."""
    monkeypatch.setattr(calls, "TICK_S", 1 / 16)
    monkeypatch.setattr(calls, "HANDSHAKE_S", 0.5)


@contextlib.asynccontextmanager
async def connections(served: Served, count: int) -> AsyncIterator[list[Raw]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Raw.to(served)) for _ in range(count)]


@pytest.mark.parametrize(
    ("bounds", "bound"),
    [({"connections": 3}, "connections"), ({"connections_of_one": 3}, "address")],
    ids=["in all", "from one address"],
)
def test_one_connection_too_many_is_closed_and_the_others_go_on(run: Run, bounds: Any, bound: str) -> None:
    async def main() -> tuple[Any, ...]:
        async with serving(bounded(**bounds)) as served:
            async with good_neighbour(served), connections(served, 2), Raw.to(served) as fourth:
                heard = await silence(fourth)
                at_once = served.server.crowd.size
            await nothing_left(served)
            async with Raw.to(served) as later:
                later.send(call(1))
                answered = await later.status(1)
            return heard, at_once, answered, dict(served.server.limited)

    heard, at_once, answered, limited = run(main())

    assert heard
    assert (at_once, answered) == (3, 0)
    assert limited == {bound: 1}


async def silence(raw: Raw) -> bool:
    """It is closed before anything was said."""
    with contextlib.suppress(EOFError, ConnectionError):
        await raw.frame()
        return False
    return True


def test_grpcs_clients_hear_unavailable_where_there_is_no_room_and_wait_before_they_come_again(run: Run) -> None:
    """Every one: of those who get settings and a GOAWAY in one piece, some hear nothing until their deadline."""

    async def refused(served: Served) -> str:
        async with served.channel() as channel:
            with pytest.raises(aio.AioRpcError) as caught:
                await channel.unary_unary("/t.T/unary")(b"", timeout=5)
            return caught.value.code().name

    async def main() -> tuple[set[str], int]:
        async with serving(bounded(connections=1)) as served, Raw.to(served) as first:
            first.send(call(1))
            await first.status(1)
            said = {await refused(served) for _ in range(50)}
            return said, served.server.limited["connections"]

    assert run(main()) == ({"UNAVAILABLE"}, 50)


def test_who_is_turned_away_makes_no_room_for_himself(run: Run) -> None:
    """A hundred that come again and again are a hundred refusals, and leave nothing behind."""

    async def main() -> tuple[int, int, int]:
        async with serving(bounded(connections_of_one=2)) as served:
            async with connections(served, 2):
                for _ in range(100):
                    async with Raw.to(served) as raw:
                        assert await silence(raw)
                inside = served.server.crowd.size
            await nothing_left(served)
            return served.server.limited["address"], inside, served.server.crowd.size

    assert run(main()) == (100, 2, 0)


def test_hands_that_are_never_shaken_are_not_more_than_may_be(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue("own")
    files = TlsFiles(issued.certificate, issued.key, authority.path)
    monkeypatch.setattr(server_module, "MAX_HANDSHAKES", 8)
    monkeypatch.setattr(port_module, "HANDSHAKE_S", 1.0)

    async def main() -> tuple[int, int, bytes]:
        server = Server()
        port = server.add_secure_port("127.0.0.1:0", Watched(files.all(), lambda: server_context(files)))
        await server.start()
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
        await until(lambda: server.limited["handshakes"] == 3)  # a quarter of them may be from one address
        held = server._shaking.size
        await until(lambda: not server._shaking.size)
        context = client_context(TlsFiles(authorities=authority.path))
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="127.0.0.1")
        settings = await reader.readexactly(4)
        writer.close()
        for one in silent:
            one.close()
        await server.stop(None)
        return held, server.limited["handshakes"], settings[3:4]

    assert run(main()) == (2, 3, bytes([frames.SETTINGS]))


def test_calls_over_the_limit_of_a_connection_are_counted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_CALLS", 4)

    async def main() -> int:
        async with serving() as served, Raw.to(served) as raw:
            raw.send(b"".join(call(number, "sleep") for number in range(1, 13, 2)))
            await raw.until(frames.RST_STREAM, 11)
            return int(served.server.limited["calls"])

    assert run(main()) == 2


# Too slow -------------------------------------------------------------------------------------------------------------

HALF = framed(bytes(100))[:50]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "sent",
    [opening(1), opening(1) + data(1, HALF), opening(1, "many"), opening(1, "count") + data(1, HALF)],
    ids=["no message", "half a message", "of a stream of answers", "half a message of a stream"],
)
def test_a_message_that_does_not_become_whole_ends_its_call_and_what_was_kept(run: Run, sent: bytes) -> None:
    async def main() -> tuple[int, int, int, int]:
        async with serving(bounded(message_s=0.5)) as served, good_neighbour(served), Raw.to(served) as raw:
            raw.send(sent)
            code = await raw.status(1)
            kept = sum(one._kept for one in served.server.connections)
            streams = sum(len(one.streams) for one in served.server.connections if not one.running)
            return code, kept, served.server.limited["slow"], streams

    assert run(main()) == (SLOW, 0, 1, 0)


@pytest.mark.usefixtures("quick")
def test_a_message_that_drips_is_not_waited_for_either(run: Run) -> None:
    async def drip(raw: Raw) -> None:
        raw.send(opening(1))
        while True:
            raw.send(data(1, b"\0"))
            await asyncio.sleep(0.02)

    async def main() -> int:
        async with serving(bounded(message_s=0.5)) as served, Raw.to(served) as raw:
            dripping = asyncio.create_task(drip(raw))
            code = await raw.status(1)
            dripping.cancel()
            return code

    assert run(main()) == SLOW


@pytest.mark.usefixtures("quick")
def test_who_has_nothing_to_send_in_a_stream_may_wait_as_long_as_it_likes(run: Run) -> None:
    async def main() -> int:
        async with serving(bounded(message_s=0.25)) as served, Raw.to(served) as raw:
            raw.send(opening(1, "count") + data(1, framed(b"abc")))
            before = served.handlers.begun["unary"]
            raw.send(call(3, "brief"))
            await raw.status(3)
            ticks = 0
            while ticks < 16:  # a second by the server's clock, four times as long as a message may take
                await asyncio.sleep(1 / 16)
                ticks += 1
            raw.send(data(1, b"", ends=True))
            code = await raw.status(1)
            assert before == served.handlers.begun["unary"]
            return code + served.server.limited["slow"]

    assert run(main()) == 0


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("sent", "more"),
    [
        (opening(1)[:20], b""),
        (opening(1)[:20], opening(1)[20:21]),
        (frames.frame(frames.HEADERS, 0, 1, opening(1)[9:]), b""),
        (frames.frame(frames.HEADERS, 0, 1, opening(1)[9:30]), frames.frame(frames.CONTINUATION, 0, 1, b"")),
    ],
    ids=["half a frame", "a dripping frame", "half a block", "a dripping block"],
)
def test_fields_that_do_not_become_whole_end_the_connection(run: Run, sent: bytes, more: bytes) -> None:
    async def drip(raw: Raw) -> None:
        if more and len(more) == 1:
            await asyncio.sleep(0.2)
            raw.send(more)
        while len(more) > 1:
            raw.send(more)
            await asyncio.sleep(0.05)

    async def main() -> tuple[int | None, int]:
        async with serving() as served:
            async with good_neighbour(served), Raw.to(served) as raw:
                raw.send(sent)
                dripping = asyncio.create_task(drip(raw))
                code = await raw.end()
                dripping.cancel()
            await nothing_left(served)
            return code, served.server.limited["slow"]

    assert run(main()) == (frames.ENHANCE_YOUR_CALM, 1)


@pytest.mark.usefixtures("quick")
def test_first_words_that_drip_are_not_listened_to(run: Run) -> None:
    async def drip(raw: Raw) -> None:
        for byte in frames.PREFACE:
            raw.send(bytes([byte]))
            await asyncio.sleep(0.1)

    async def main() -> tuple[int | None, int]:
        async with serving() as served:
            async with Raw.to(served, b"") as raw:
                dripping = asyncio.create_task(drip(raw))
                code = await raw.end()
                dripping.cancel()
            await nothing_left(served)
            return code, served.server.limited["slow"]

    assert run(main()) == (None, 1)


# Pings ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_client_that_pings_oftener_than_triton_allows_keeps_its_connection(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton drops who pings within five minutes without a call; here pings cost what they cost, and no more."""
    pings: list[bytes] = []
    take = ServerConnection._take_ping

    def counted(self: ServerConnection, flags: int, number: int, payload: bytes) -> None:
        pings.append(payload)
        take(self, flags, number, payload)

    monkeypatch.setattr(ServerConnection, "_take_ping", counted)
    options = (
        ("grpc.keepalive_time_ms", 100),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_time_between_pings_ms", 100),
        ("grpc.use_local_subchannel_pool", 1),
    )

    async def main() -> tuple[int, int]:
        async with serving() as served, aio.insecure_channel(served.address, options) as channel:
            ask = channel.unary_unary("/t.T/unary")
            await ask(b"", timeout=5)
            await until(lambda: len(pings) >= 3, 10)
            await ask(b"", timeout=5)
            return len(served.server.connections), served.server.limited.total()

    assert run(main()) == (1, 0)


def test_a_flood_of_pings_is_told_in_the_words_that_slow_grpcs_clients_down(run: Run) -> None:
    async def main() -> tuple[bytes, int]:
        async with serving() as served, good_neighbour(served), Raw.to(served) as raw:
            raw.send(frames.frame(frames.PING, 0, 0, bytes(8)) * 1100)
            payload = await raw.until(frames.GOAWAY)
            return payload[4:], served.server.limited["calm"]

    told, counted = run(main())

    assert told == frames.UINT32.pack(frames.ENHANCE_YOUR_CALM) + b"too_many_pings"
    assert counted == 1


# What a rule asks, and what is told of it -----------------------------------------------------------------------------


def test_a_refusal_has_its_metadata_and_what_was_taken_is_given_back_once(run: Run) -> None:
    crowd = Crowd(2)

    def admit(asked: Any) -> str:
        if crowd.enter("x"):
            raise Failure(grpc.StatusCode.UNAVAILABLE, "no", (("grpc-retry-pushback-ms", "17"),))
        asked.leaving = lambda: crowd.leave("x")
        return "who"

    async def main() -> tuple[Any, ...]:
        async with serving(lambda: Server(rule_of=lambda _: Rule(admit))) as served, served.channel() as channel:
            held = [channel.unary_unary("/t.T/sleep")(b"") for _ in range(2)]
            await until(lambda: crowd.size == 2)
            with pytest.raises(aio.AioRpcError) as caught:
                await channel.unary_unary("/t.T/unary")(b"")
            pushed = dict(caught.value.trailing_metadata() or ())
            held[0].cancel()
            await until(lambda: crowd.size == 1)
            ends = [await _code(channel, name) for name in ("unary", "refuse", "fail")]
            assert crowd.size == 1
            held[1].cancel()
            await until(lambda: not crowd.size)
            return pushed["grpc-retry-pushback-ms"], ends

    assert run(main()) == ("17", ["OK", "FAILED_PRECONDITION", "UNKNOWN"])


async def _code(channel: aio.Channel, name: str) -> str:
    asked = channel.unary_unary(f"/t.T/{name}")(b"", timeout=5)
    code = await asked.code()
    return str(code.name)


def test_what_a_peer_runs_into_is_counted_under_its_name(run: Run) -> None:
    huge = opening(1, more=literal(b"a", bytes(20_000))) + data(1, framed(b""), ends=True)

    async def main() -> dict[str, int]:
        async with serving() as served:
            async with Raw.to(served) as raw:
                raw.send(huge + opening(3) + data(3, b"\0\xff\xff\xff\xff"))
                await raw.status(3)
            async with Raw.to(served) as raw:
                raw.send(data(0, b"a"))
                await raw.end()
            return dict(served.server.limited)

    assert run(main()) == {"metadata": 1, "message": 1, "protocol": 1}
