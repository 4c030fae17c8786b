"""What a client sends to one of our ports, without the socket: no error of ours, and nothing is left behind."""

from __future__ import annotations

import asyncio
from typing import Final

from tests.fuzz.targets.target import Target, no_error_of_ours
from tests.rpc import call, data, opening
from tests.unsocketed import SESSION, fed

from headrace.rpc import frames
from headrace.rpc.messages import framed

OPENING: Final = frames.PREFACE + frames.settings({})
FAILS: Final = "a handler of /t.T/fail failed"
"""One of the handlers does that on purpose."""


def check(received: bytes) -> None:
    """The first two bytes say where the third arrives in pieces."""
    cuts = [place * 37 for place in received[:2]]
    with no_error_of_ours("headrace.rpc", but=FAILS):
        asyncio.run(fed(OPENING + received[2:], cuts))


def _seeds() -> list[bytes]:
    sessions = (
        SESSION,
        call(1) + call(3, "refuse") + call(5, "none"),
        opening(1, "both") + data(1, framed(b"a") * 2) + data(1, b"", ends=True),
        frames.frame(frames.HEADERS, 0, 1, opening(1)[9:20]) + frames.frame(frames.CONTINUATION, 4, 1, opening(1)[20:]),
        frames.frame(frames.PRIORITY, 0, 1, bytes(5)) + frames.goaway(0, 0) + frames.frame(frames.PING, 0, 0, bytes(8)),
    )
    return [b"\x01\x05" + session for session in sessions]


TARGET: Final = Target(_seeds(), check, ("headrace.rpc.connection", "headrace.rpc.calls", "headrace.rpc.messages"))
