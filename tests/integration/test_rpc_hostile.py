"""Clients that break the rules, or flood: each ends its own connection with the right code, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import grpc
import pytest
from hpack import Encoder
from tests.rpc import BLOCK, OVERFLOW, Raw, Run, call, data, good_neighbour, nothing_left, opening, serving, until

from headrace.rpc import calls, frames
from headrace.rpc.fields import literal
from headrace.rpc.messages import framed

EMPTY: Final = b""
MANY: Final = 1100

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
    "a flood of windows": (frames.window_update(0, 1) * MANY, frames.ENHANCE_YOUR_CALM),
    "a flood of windows of calls that are over": (
        call(1) + frames.window_update(1, 1) * MANY,
        frames.ENHANCE_YOUR_CALM,
    ),
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


def test_who_opens_its_windows_for_every_answer_is_heard_for_as_long_as_it_likes(run: Run) -> None:
    """Some clients do: once for the call, once for the connection, and in steps."""
    opened = frames.window_update(0, 2)

    async def main() -> int:
        async with serving() as served, Raw.to(served) as raw:
            for number in range(1, 4_000, 2):
                raw.send(call(number, message=b"abc") + frames.window_update(number, 5) + opened)
                assert await raw.status(number) == 0
                raw.send(frames.window_update(number, 1))
            raw.send(call(4_001))
            return await raw.status(4_001)

    assert run(main()) == 0


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
    monkeypatch.setattr(calls, "MAX_CALLS", 10)

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
    monkeypatch.setattr(calls, "TICK_S", 0.125)
    monkeypatch.setattr(calls, "KEEPALIVE_S", 0.5)
    monkeypatch.setattr(calls, "HANDSHAKE_S", 0.5)

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
