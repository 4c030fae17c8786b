"""A connection without a socket: bytes go in, whatever is written is dropped, and nothing may be left behind."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Final

from tests.rpc import BLOCK, Handlers, call, data, opening

from headrace.rpc import frames
from headrace.rpc.calls import ServerConnection
from headrace.rpc.messages import framed
from headrace.rpc.server import Server

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

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


async def fed(sent: bytes, cuts: Sequence[int]) -> None:
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
