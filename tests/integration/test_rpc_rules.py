"""What a server asks of its callers before it reads a message: who may not costs nothing, and is told why."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import pytest
from grpc import aio
from tests.rpc import LARGE, Raw, Run, Served, call, data, framed, nothing_left, opening, serving

from headrace.rpc.call import Call
from headrace.rpc.fields import literal
from headrace.rpc.messages import Failure
from headrace.rpc.methods import Rule
from headrace.rpc.server import Server

LIMIT: Final = 100
EXHAUSTED: Final = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
DENIED: Final = grpc.StatusCode.PERMISSION_DENIED
KINDS: Final = ("unary", "many", "count", "both")
PROMPT: Final = 64 << 10
"""Bytes that a client may have sent before it hears anything."""


def no(_: Call) -> None:
    raise Failure(DENIED, "not you")


def yes(_: Call) -> None:
    pass


@contextlib.asynccontextmanager
async def ruled(rule: Rule) -> AsyncIterator[Served]:
    async with serving(lambda: Server(rule_of=lambda _: rule)) as served:
        yield served


async def one(message: bytes) -> AsyncIterator[bytes]:
    """A stream whose caller waits to hear something before it goes on."""
    yield message
    await asyncio.Event().wait()


async def refusal(channel: aio.Channel, kind: str, message: bytes, compression: grpc.Compression | None) -> Any:
    path = f"/t.T/{kind}"
    options = {"compression": compression, "timeout": 20}
    try:
        if kind == "unary":
            await channel.unary_unary(path)(message, **options)
        elif kind == "many":
            await channel.unary_stream(path)(message, **options).read()
        elif kind == "count":
            await channel.stream_unary(path)(one(message), **options)
        else:
            await channel.stream_stream(path)(one(message), **options).read()
    except aio.AioRpcError as error:
        return error.code(), error.details()
    return None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, PROMPT, LARGE])
@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
def test_every_kind_of_call_is_told_why_it_is_refused(
    run: Run, kind: str, size: int, compression: grpc.Compression | None
) -> None:
    async def main() -> tuple[Any, int]:
        async with ruled(Rule(no)) as served, served.channel() as channel:
            found = await refusal(channel, kind, bytes(size), compression)
            return found, served.handlers.begun.total()

    assert run(main()) == ((DENIED, "not you"), 0)


def test_what_a_refused_caller_sends_is_neither_kept_nor_expanded(run: Run) -> None:
    """60 KiB each, of 60 MiB."""
    packed = gzip.compress(bytes(60 << 20))
    message = b"\x01" + framed(packed)[1:]
    pieces = [message[start : start + 16_384] for start in range(0, len(message), 16_384)]
    numbers = range(1, 2 * len(KINDS), 2)

    async def main() -> tuple[set[int], int]:
        async with ruled(Rule(no)) as served, Raw.to(served) as raw:
            tracemalloc.start()
            for number, kind in zip(numbers, KINDS, strict=True):
                raw.send(opening(number, kind, more=literal(b"grpc-encoding", b"gzip")))
                raw.send(b"".join(data(number, piece) for piece in pieces))
            codes = {await raw.status(number) for number in numbers}
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return codes, peak

    codes, peak = run(main())

    assert codes == {DENIED.value[0]}
    assert peak < 8 << 20


@pytest.mark.slow
def test_a_refused_stream_that_sends_nothing_is_told_soon(run: Run) -> None:
    async def main() -> int:
        async with ruled(Rule(no)) as served:
            async with Raw.to(served) as raw:
                raw.send(opening(1, "both"))
                code = await raw.status(1)
            await nothing_left(served)
            return code

    assert run(main()) == DENIED.value[0]


@pytest.mark.parametrize("kind", ["unary", "both"])
@pytest.mark.parametrize(
    ("size", "packed", "fits"),
    [(LIMIT, False, True), (LIMIT, True, True), (LIMIT + 1, False, False), (1 << 20, True, False)],
)
def test_a_message_is_no_larger_than_its_method_takes(
    run: Run,
    kind: str,
    size: int,
    packed: bool,  # noqa: FBT001
    fits: bool,  # noqa: FBT001
) -> None:
    more = literal(b"grpc-encoding", b"gzip") if packed else b""
    message = b"\x01" + framed(gzip.compress(bytes(size)))[1:] if packed else framed(bytes(size))
    limit = Rule(yes, max_message=LIMIT if size <= LIMIT + 1 else 2048)

    async def main() -> int:
        async with ruled(limit) as served, Raw.to(served) as raw:
            raw.send(opening(1, kind, more=more) + data(1, message, ends=True))
            return await raw.status(1)

    assert run(main()) == (0 if fits else EXHAUSTED)


def test_who_may_call_is_asked_once_a_call(run: Run) -> None:
    asked: list[str] = []

    async def main() -> int:
        async with ruled(Rule(lambda each: asked.append(each.asked.path))) as served, Raw.to(served) as raw:
            raw.send(call(1) + call(3, "both") + call(5, "nowhere"))
            return await raw.status(1) + await raw.status(3)

    assert run(main()) == 0
    assert asked == ["/t.T/unary", "/t.T/both"]
