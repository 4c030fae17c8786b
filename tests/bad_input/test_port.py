"""Anything at all on the gateway's port: its connection ends soon, and nobody who asks properly notices."""

from __future__ import annotations

import asyncio
import contextlib
import random
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

import pytest
from hpack import Encoder
from tests.bad_input.malformed import INFER, good
from tests.bad_input.served import QUESTION, Served
from tests.rpc import by_path, call, data, opening
from tests.steady import Steady
from tests.unsocketed import SESSION

from headrace.rpc import frames
from headrace.rpc.fields import literal
from headrace.rpc.messages import framed

Run = Callable[..., Any]
HELLO: Final = frames.PREFACE + frames.settings({})
TLS_HELLO: Final = bytes.fromhex("160301020001000001fc0303") + bytes(500)
CONNECTIONS: Final = 6
"""Of one kind at a time."""
SOON_S: Final = 8.0
SLOWEST_S: Final = 5.0
GROWS_MIB: Final = 96
"""Of the gateway: records of thirty thousand calls that were given up wait to be told as traces."""


class Attack(NamedTuple):
    """What a client sends, and whether that must end its connection."""

    make: Callable[[random.Random], bytes]
    ends: bool = True


def _frames(source: random.Random) -> bytes:
    """Heads that are right in form, of any kind, with payloads of any kind."""
    found = [HELLO]
    for _ in range(200):
        payload = source.randbytes(source.choice((0, 1, 4, 5, 6, 8, 9, 40)))
        number = source.choice((0, 1, 3, 5, 2**31 - 1, source.getrandbits(32)))
        found.append(frames.HEAD.pack(0, len(payload), source.randrange(12), source.randrange(256), number) + payload)
    return b"".join(found)


def _infer(message: bytes, number: int = 1, *, ends: bool = True, more: bytes = b"") -> bytes:
    """A call of ModelInfer, whatever its message is."""
    fields = b"\x83\x86" + literal(b":path", INFER.encode()) + literal(b"content-type", b"application/grpc") + more
    pieces = [message[at : at + frames.DEFAULT_FRAME] for at in range(0, len(message), frames.DEFAULT_FRAME)]
    return frames.fields(number, fields) + b"".join(
        data(number, piece, ends=ends and place == len(pieces) - 1) for place, piece in enumerate(pieces)
    )


@lru_cache(maxsize=1)
def _bomb() -> bytes:
    """65 MiB of zeros in 65 KiB."""
    squeezed = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    message = squeezed.compress(bytes(65 << 20)) + squeezed.flush()
    return HELLO + _infer(b"\x01" + framed(message)[1:], more=literal(b"grpc-encoding", b"gzip"))


def _huffman(_: random.Random) -> bytes:
    """Blocks of as much of the code as a block may have: it is read nibble by nibble."""
    block = Encoder().encode([(b"a", b"0" * 24_000, True)], huffman=True)
    return HELLO + b"".join(frames.fields(number, block, frames.END_STREAM) for number in range(1, 100, 2))


def _given_up(source: random.Random) -> bytes:
    """Whole inferences, each reset as soon as it is sent."""
    message = framed(good(source).SerializeToString())
    return HELLO + b"".join(_infer(message, number) + frames.reset(number, 8) for number in range(1, 10_000, 2))


ATTACKS: Final[dict[str, Attack]] = {
    "noise": Attack(lambda source: source.randbytes(100_000)),
    "noise behind a preface": Attack(lambda source: frames.PREFACE + source.randbytes(100_000)),
    "noise behind settings": Attack(lambda source: HELLO + source.randbytes(100_000)),
    "random frames": Attack(_frames),
    "a session that is cut off": Attack(
        lambda source: (HELLO + SESSION)[: source.randrange(len(HELLO + SESSION))], False
    ),
    "a message of bytes": Attack(lambda source: HELLO + _infer(framed(source.randbytes(5000))), False),
    "a message that never ends": Attack(
        lambda _: HELLO + _infer(b"\0\xff\xff\xff\xff" + bytes(1000), ends=False), False
    ),
    "a message that expands": Attack(lambda _: _bomb(), False),
    "TLS": Attack(lambda _: TLS_HELLO),
    "HTTP/1.1": Attack(lambda _: b"GET /metrics HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n"),
    "HTTP/1.1, a megabyte": Attack(lambda _: b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200_000),
    "half a preface": Attack(lambda _: frames.PREFACE[:10], False),
    "a giant block of fields": Attack(
        lambda _: HELLO + frames.fields(1, b"\x00\x01a\x7f\xe1\xff\x3f" + bytes(1 << 20))
    ),
    "many fields": Attack(lambda _: HELLO + frames.fields(1, b"\x00\x01a\x00" * 8000), False),
    "codes that are long to read": Attack(_huffman, False),
    "continuations": Attack(
        lambda _: (
            HELLO + frames.frame(frames.HEADERS, 0, 1, b"") + frames.frame(frames.CONTINUATION, 0, 1, b"") * 100_000
        )
    ),
    "resets": Attack(
        lambda _: HELLO + b"".join(opening(n) + frames.reset(n, 8) for n in range(1, 20_000, 2)),
    ),
    "resets behind whole calls": Attack(
        lambda _: HELLO + b"".join(call(n, "unary", b"x") + frames.reset(n, 8) for n in range(1, 20_000, 2))
    ),
    "inferences given up": Attack(_given_up, False),
    "settings": Attack(lambda _: HELLO + frames.settings({}) * 100_000),
    "settings that move windows": Attack(
        lambda source: (
            HELLO
            + b"".join(frames.settings({frames.INITIAL_WINDOW_SIZE: source.getrandbits(31)}) for _ in range(20_000))
        )
    ),
    "pings": Attack(lambda _: HELLO + frames.frame(frames.PING, 0, 0, bytes(8)) * 100_000),
    "empty data": Attack(lambda _: HELLO + by_path(INFER) + data(1, b"") * 100_000),
    "data of single bytes": Attack(lambda _: HELLO + by_path(INFER) + data(1, b"\0") * 20_000, False),
    "windows of nothing": Attack(lambda _: HELLO + frames.window_update(0, 0)),
    "windows without end": Attack(lambda _: HELLO + frames.window_update(0, frames.LARGEST_WINDOW) * 2),
    "windows in the smallest steps": Attack(lambda _: HELLO + frames.window_update(0, 1) * 200_000),
    "more than the window": Attack(lambda _: HELLO + by_path(INFER) + data(1, bytes(16_384)) * 200),
}


async def _attacked(port: int, sent: bytes, *, ends: bool) -> None:
    """One connection: all is sent, what comes is read, and it ends. Raises: TimeoutError where it does not."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(SOON_S):
                writer.write(sent)
                reading = asyncio.ensure_future(_read_all(reader))
                if not ends:
                    await writer.drain()
                    writer.write_eof()
                await reading
    finally:
        writer.transport.abort()


async def _read_all(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(1 << 16):
            pass


@pytest.mark.parametrize("name", ATTACKS)
def test_whatever_comes_ends_its_own_connection_soon_and_disturbs_nobody(run: Run, served: Served, name: str) -> None:
    attack = ATTACKS[name]
    sent = [attack.make(random.Random(seed)) for seed in range(CONNECTIONS)]

    async def main() -> Steady:
        callers = Steady(served.address, QUESTION, callers=2, pause_s=0.002)
        async with callers.asking():
            await callers.answered(10)
            sockets = served.sockets()
            await asyncio.gather(*[_attacked(served.port, one, ends=attack.ends) for one in sent])
            async with asyncio.timeout(SOON_S):
                while served.sockets() > sockets:
                    await asyncio.sleep(0.01)
            await callers.answered(10)
        return callers

    processes, before_mib = served.processes(), served.resident_mib()
    callers = run(main())

    assert set(callers.results) == {"right"}
    assert callers.slowest_s < SLOWEST_S
    assert served.resident_mib() - before_mib < GROWS_MIB
    assert served.processes() == processes
    assert served.errors() == []
