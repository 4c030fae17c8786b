"""What a replica, or whoever has its port, sends to a gateway: each call of ours ends once, and no error is ours."""

from __future__ import annotations

import asyncio
from typing import Final

from tests.fuzz.targets.target import Target, no_error_of_ours
from tests.rpc import Heard
from tests.unsocketed import Wire

from headrace.rpc import frames
from headrace.rpc.channel import ClientConnection
from headrace.rpc.messages import ANSWER, framed, trailers
from headrace.rpc.messages import STATUS as CODES

CALLS: Final = 3


def check(received: bytes) -> None:
    with no_error_of_ours("headrace.rpc"):
        asyncio.run(_fed(received))


async def _fed(received: bytes) -> None:
    connection, heard = ClientConnection("a:1"), [Heard() for _ in range(CALLS)]
    connection.connection_made(Wire())
    for one in heard:
        exchange = connection.open("/t.T/both", one.messages.append, one.on_end)
        exchange.send(b"a question" * 10)
    for at in range(0, len(received), 64):
        connection.data_received(received[at : at + 64])
    await asyncio.sleep(0)
    connection.connection_lost(None)
    assert [len(one.ends) for one in heard] == [1] * CALLS
    assert sum(len(message) for one in heard for message in one.messages) <= len(received) * 1100  # as zlib expands
    assert not connection.streams


def _seeds() -> list[bytes]:
    first, last = frames.fields(1, ANSWER), frames.fields(1, trailers(CODES[0], "", ()), frames.END_STREAM)
    answer = frames.frame(frames.DATA, 0, 1, framed(b"an answer"))
    refusal = frames.fields(3, ANSWER + trailers(CODES[14], "away", (("a-bin", b"b"),)), frames.END_STREAM)
    hello = frames.settings({frames.INITIAL_WINDOW_SIZE: 20}) + frames.window_update(0, 1000)
    return [
        hello + first + answer * 2 + last + refusal + frames.reset(5, 8),
        hello + frames.goaway(1, 0, "enough") + first + answer + frames.frame(frames.PING, 0, 0, bytes(8)),
        first + answer[:12],
    ]


TARGET: Final = Target(_seeds(), check, ("headrace.rpc.connection", "headrace.rpc.channel"))
