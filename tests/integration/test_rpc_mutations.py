"""Any bytes at all: no error of ours, nothing left behind, and a good client gets right answers beside them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
from collections import Counter
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rpc import BLOCK, Handlers, Raw, Run, call, data, good_neighbour, nothing_left, opening, serving

from headrace.rpc import frames
from headrace.rpc.messages import framed
from headrace.rpc.server import Server, ServerConnection

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
