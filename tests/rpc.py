"""What the tests of the rpc room share: servicers, a served port, and a client that writes its own frames."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Self

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer
from hpack import Decoder

from headrace.rpc import frames
from headrace.rpc.channel import Channel
from headrace.rpc.fields import literal
from headrace.rpc.health import Health
from headrace.rpc.messages import framed
from headrace.rpc.server import Server

Run = Callable[..., Any]
Make = Callable[[], Any]

LIMIT: Final = 64 << 20
LARGE: Final = 20 << 20
MOST_DIGITS: Final = 8
OPTIONS: Final = (("grpc.max_receive_message_length", LIMIT), ("grpc.max_send_message_length", -1))
DETAILS: Final = "Grüße, 100 % 日本\nund\x7f"
TRAILING: Final = (("why", "because"), ("raw-bin", bytes(range(256))))
HEALTH: Final = "/grpc.health.v1.Health/Check"


def _number(request: bytes) -> int:
    """What is asked for; 0 where it is no number: noise finds its way to handlers too, which must not fail over it."""
    return int(request) if request.isdigit() and len(request) <= MOST_DIGITS else 0


# Servers ----------------------------------------------------------------------------------------------------------


@dataclass
class Handlers:
    """What is served in all tests, and what has come of it."""

    begun: Counter[str] = field(default_factory=Counter)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled_at: float = 0.0
    go: asyncio.Event = field(default_factory=asyncio.Event)
    produced: int = 0

    async def unary(self, request: bytes, rpc: Any) -> bytes:
        self.begun["unary"] += 1
        rpc.set_trailing_metadata(tuple((k, v) for k, v in rpc.invocation_metadata() if k.startswith("x-")))
        return request

    async def brief(self, request: bytes, _: Any) -> bytes:
        self.begun["brief"] += 1
        await asyncio.sleep(0.01)
        return request

    async def sized(self, request: bytes, _: Any) -> bytes:
        return bytes(_number(request))

    async def many(self, request: bytes, _: Any) -> AsyncIterator[bytes]:
        for i in range(_number(request)):
            yield b"%d" % i

    async def flood(self, request: bytes, _: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                self.produced += 1
                yield bytes(_number(request))
        finally:
            self.cancelled.set()

    async def count(self, requests: AsyncIterator[bytes], _: Any) -> bytes:
        return b"%d" % sum([len(request) async for request in requests])

    async def both(self, requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def deaf(self, _: Any, rpc: Any) -> None:
        await self.go.wait()
        while await rpc.read() is not aio.EOF:
            pass

    async def refuse(self, _: bytes, rpc: Any) -> None:
        await rpc.abort(grpc.StatusCode.FAILED_PRECONDITION, DETAILS, TRAILING)

    async def lament(self, request: bytes, rpc: Any) -> None:
        await rpc.abort(grpc.StatusCode.FAILED_PRECONDITION, "a" * _number(request))

    async def fail(self, _: bytes, __: Any) -> None:
        raise ValueError("boom")

    async def sleep(self, _: bytes, __: Any) -> bytes:
        self.begun["sleep"] += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled_at = time.monotonic()
            self.cancelled.set()
            raise
        return b""

    def join(self, server: Any) -> None:
        kinds = {
            grpc.unary_unary_rpc_method_handler: ("unary", "brief", "sized", "refuse", "lament", "fail", "sleep"),
            grpc.unary_stream_rpc_method_handler: ("many", "flood"),
            grpc.stream_unary_rpc_method_handler: ("count",),
            grpc.stream_stream_rpc_method_handler: ("both", "deaf"),
        }
        methods = {name: kind(getattr(self, name)) for kind, names in kinds.items() for name in names}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", methods),))
        self.health = Health()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            ReflectionServicer(("t.T", reflection.SERVICE_NAME)), server
        )


@dataclass
class Served:
    server: Any
    port: int
    handlers: Handlers

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def channel(self) -> aio.Channel:
        return aio.insecure_channel(self.address, (*OPTIONS, ("grpc.use_local_subchannel_pool", 1)))


@contextlib.asynccontextmanager
async def serving(make: Callable[[], Any] = Server, port: int = 0) -> AsyncIterator[Served]:
    server, handlers = make(), Handlers()
    handlers.join(server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield Served(server, bound, handlers)
    finally:
        await server.stop(None)


async def ask(channel: aio.Channel, name: str, message: bytes = b"", **options: Any) -> bytes:
    answer: bytes = await channel.unary_unary(f"/t.T/{name}")(message, **options)
    return answer


async def until(done: Callable[[], Any], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not done():
            await asyncio.sleep(0.01)


# Hostile clients ---------------------------------------------------------------------------------------------------


class Raw:
    """A client that writes its frames by hand. Stream 1 is not open yet."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._unread = b""
        self.fields = Decoder()

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, served: Served, opening: bytes | None = None) -> AsyncIterator[Self]:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        raw = cls(reader, writer)
        raw.send(frames.PREFACE + frames.settings({}) if opening is None else opening)
        try:
            yield raw
        finally:
            writer.close()

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def frame(self, seconds: float = 5.0) -> tuple[int, int, int, bytes]:
        """The next one: kind, flags, stream and payload. Raises: EOFError."""
        async with asyncio.timeout(seconds):
            head = await self._reader.readexactly(9)
            high, low, kind, flags, number = frames.HEAD.unpack(head)
            assert high << 16 | low <= frames.DEFAULT_FRAME, "we have allowed no larger ones"
            return kind, flags, number, await self._reader.readexactly(high << 16 | low)

    async def until(self, kind: int, number: int | None = None, seconds: float = 5.0) -> bytes:
        while True:
            found = await self.frame(seconds)
            if found[0] == kind and number in (None, found[2]):
                return found[3]

    async def end(self) -> int | None:
        """The code that the connection ends with; None = it just ended."""
        try:
            code = (await self.until(frames.GOAWAY))[4:8]
        except (EOFError, ConnectionError):
            return None
        return int.from_bytes(code, "big")

    async def status(self, number: int, seconds: float = 5.0) -> int:
        """The status that a call ends with."""
        while True:
            kind, flags, found, payload = await self.frame(seconds)
            if kind == frames.HEADERS:
                block = payload
                while not flags & frames.END_HEADERS:
                    _, more, _, payload = await self.frame(seconds)
                    block, flags = block + payload, flags | more & frames.END_HEADERS
                fields = dict(self.fields.decode(block, raw=True))
                if found == number and flags & frames.END_STREAM:
                    return int(fields[b"grpc-status"])


def opening(number: int, name: str = "unary", flags: int = 0, more: bytes = b"") -> bytes:
    """A call's first frame."""
    block = b"\x83\x86" + literal(b":path", b"/t.T/" + name.encode()) + literal(b"content-type", b"application/grpc")
    return frames.fields(number, block + literal(b"te", b"trailers") + more, flags)  # codespell:ignore te


def by_path(path: str) -> bytes:
    block = b"\x83\x86" + literal(b":path", path.encode()) + literal(b"content-type", b"application/grpc")
    return frames.fields(1, block)


def data(number: int, payload: bytes, *, ends: bool = False) -> bytes:
    return frames.frame(frames.DATA, frames.END_STREAM if ends else 0, number, payload)


def call(number: int, name: str = "unary", message: bytes = b"", more: bytes = b"") -> bytes:
    return opening(number, name, more=more) + data(number, framed(message), ends=True)


@contextlib.asynccontextmanager
async def good_neighbour(served: Served) -> AsyncIterator[Counter[str]]:
    """A well-behaved client whose calls must all be answered, and soon, whatever the others do."""
    results: Counter[str] = Counter()
    stopping = asyncio.Event()

    async def caller(channel: aio.Channel) -> None:
        for i in itertools.count():
            begun = time.monotonic()
            answer = await ask(channel, "unary", b"%d" % i, timeout=10)
            results["right" if answer == b"%d" % i else "wrong"] += 1
            results["slow"] += time.monotonic() - begun > 3.0
            if stopping.is_set():
                return
            await asyncio.sleep(0.002)

    async with served.channel() as channel:
        calling = asyncio.create_task(caller(channel))
        await until(lambda: results["right"] or calling.done())
        yield results
        before = results["right"]
        await until(lambda: results["right"] > before or calling.done())
        stopping.set()
        await calling
    assert not results["wrong"]
    assert not results["slow"]


@contextlib.asynccontextmanager
async def without_a_window(served: Served, writers: Callable[[Any, Any], Awaitable[None]]) -> AsyncIterator[Raw]:
    """A call of `writers` whose caller takes no data yet."""
    handler = grpc.stream_stream_rpc_method_handler(writers)
    served.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.W", {"w": handler}),))
    async with Raw.to(served, frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 0})) as raw:
        raw.send(by_path("/t.W/w"))
        yield raw


async def nothing_left(served: Served) -> None:
    """All clients are gone, and so is what they had here."""
    await until(lambda: not served.server.connections)
    await until(lambda: len([t for t in asyncio.all_tasks() if t.get_name() not in ("tick", "accept")]) <= 1)


@dataclass
class Heard:
    """What a stream of ours has brought."""

    messages: list[bytes] = field(default_factory=list)
    ends: list[grpc.StatusCode] = field(default_factory=list)

    def on_end(self, code: grpc.StatusCode, _: str) -> None:
        self.ends.append(code)


@contextlib.asynccontextmanager
async def calling(address: str) -> AsyncIterator[Channel]:
    channel = Channel(address)
    try:
        yield channel
    finally:
        await channel.close()


OVERFLOW: Final = frames.LARGEST_WINDOW
BLOCK: Final = opening(1)[9:]
