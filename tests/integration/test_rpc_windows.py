"""Flow control, both ways: windows that shut, shrink or open byte by byte, and who waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time
from typing import Any

import grpc
import pytest
from tests.rpc import (
    OVERFLOW,
    Heard,
    Raw,
    Run,
    call,
    calling,
    data,
    good_neighbour,
    nothing_left,
    opening,
    serving,
    until,
    without_a_window,
)

from headrace.rpc import calls, frames
from headrace.rpc import connection as connection_module
from headrace.rpc import server as server_module
from headrace.rpc.fields import literal
from headrace.rpc.messages import framed


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


def test_windows_opened_byte_by_byte_cost_no_walk_over_all_streams(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "CREDIT", 100_000.0)  # with less, nobody opens windows so often
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
    monkeypatch.setattr(calls, "MAX_KEPT", 100_000)

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
            async with without_a_window(served, writers) as raw:
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
            async with without_a_window(served, writers) as raw:
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
