"""A gRPC client for asyncio on our own HTTP/2: one connection to one peer, made anew when it is lost.

For the hop between our own processes: a dead peer is noticed at once, a stopped one within 2.5 seconds, and nothing is
tried again here, because whoever holds the channel decides where. Source: as in `messages`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, ClassVar, Final, Protocol

import grpc

from headrace.rpc import frames
from headrace.rpc.connection import Connection, Stream
from headrace.rpc.fields import Fields, literal
from headrace.rpc.messages import MAX_MESSAGE, Failure, Metadata, Reader, entry, framed, status, timeout
from headrace.rpc.tls import TlsError
from headrace.tasks import end

CONNECT_S: Final = 1.0
KEEPALIVE_S: Final = 1.0
"""A peer that has been silent for so long is asked whether it is there, and given up after as long again."""
TICK_S: Final = 0.25
"""How often we look who is silent."""

OnMessage = Callable[[bytes], None]
OnEnd = Callable[[grpc.StatusCode, str], None]


class Credentials(Protocol):
    """How a channel shows itself, and whom it believes."""

    @property
    def name(self) -> str:
        """The name expected in the peer's certificate; empty = its host."""

    def context(self) -> ssl.SSLContext | None:
        """For a new connection; None = without TLS. Raises: TlsError."""

    def metadata(self, address: str) -> Metadata:
        """Of every call to this address."""


class Exchange(Stream):
    """One call of ours: its messages go to `on_message` as they come, and at last, once, its status to `on_end`."""

    __slots__ = ("_connection", "_on_end", "_on_message", "_reader", "half_closed", "over")

    def __init__(
        self, number: int, allowed: int, connection: ClientConnection, on_message: OnMessage, on_end: OnEnd
    ) -> None:
        super().__init__(number, allowed)
        self.over = False
        self.half_closed = False
        """We have said that this is all; perhaps it still waits to be sent."""
        self._connection = connection
        self._reader = Reader(MAX_MESSAGE)
        self._on_message = on_message
        self._on_end = on_end

    def send(self, message: bytes, *, ends: bool = False) -> None:
        """Send one message, when the peer's windows allow; nothing, where the call is over."""
        if not self.over:
            self.half_closed = ends
            self._connection.send(self, b"", framed(message), flags=frames.END_STREAM if ends else 0)

    def cancel(self) -> None:
        """Give the call up: it ends as CANCELLED, and the peer is told."""
        if not self.over:
            self._connection.write(frames.reset(self.number, frames.CANCEL))
            self.end(grpc.StatusCode.CANCELLED, "the call was cancelled")

    def take(self, data: bytes) -> None:
        """Raises: Failure for a message that cannot be read."""
        self._reader.feed(data)
        while not self.over and (message := self._reader.next()) is not None:
            self._on_message(message)

    def end(self, code: grpc.StatusCode, details: str) -> None:
        if not self.over:
            self.over = True
            self._connection.forget(self)
            self._on_end(code, details)


class ClientConnection(Connection):
    """Our calls to one peer."""

    SETTINGS: ClassVar = {frames.ENABLE_PUSH: 0}

    def __init__(self, authority: str) -> None:
        super().__init__()
        self._authority = authority
        self.leaving = False
        """The peer takes no new calls here."""

    def open(self, path: str, on_message: OnMessage, on_end: OnEnd, metadata: Metadata = ()) -> Exchange:
        """Begin a call."""
        self._last = self._last + 2 if self._last else 1
        self.leaving = self.leaving or self._last >= frames.LAST_STREAM  # the next call needs a new connection
        exchange = Exchange(self._last, self._allowed_at_first, self, on_message, on_end)
        self.streams[exchange.number] = exchange
        block = (
            self._resize
            + b"\x83\x86"
            + literal(b":path", path.encode())
            + literal(b":authority", self._authority.encode())
        )
        block += literal(b"te", b"trailers") + literal(b"content-type", b"application/grpc")  # codespell:ignore te
        block += b"".join([entry(name, value) for name, value in metadata])
        self.write(frames.fields(exchange.number, block))
        return exchange

    def forget(self, stream: Stream) -> None:
        super().forget(stream)
        self._leave_when_empty()

    def _leave_when_empty(self) -> None:
        if self.leaving and not self.streams:
            self.end(frames.NO_ERROR)

    def _opening(self) -> bytes:
        return frames.PREFACE + super()._opening()

    def _on_fields(self, number: int, fields: Fields, *, ends: bool) -> None:
        self._check_opened(number)
        exchange = self._find(number)
        if exchange is None or not ends:
            return
        if not exchange.half_closed or exchange.to_send is not None:  # the peer would wait for the rest
            self.write(frames.reset(number, frames.CANCEL))
        exchange.end(*status(fields))

    def _on_data(self, number: int, data: bytes, *, ends: bool) -> None:
        exchange = self._find(number)
        if exchange is None:
            return
        try:
            exchange.take(data)
        except Failure as failure:
            self.write(frames.reset(number, frames.CANCEL))
            exchange.end(failure.code, str(failure))
            return
        if ends:
            exchange.end(grpc.StatusCode.UNKNOWN, "the answer has ended without a status")
        elif not exchange.over:
            self.give_back(exchange)

    def _on_reset(self, number: int, code: int) -> None:
        exchange = self._find(number)
        if exchange is not None:
            refused = code in (frames.REFUSED_STREAM, frames.NO_ERROR)
            known = grpc.StatusCode.UNAVAILABLE if refused else grpc.StatusCode.CANCELLED
            exchange.end(known, f"the peer has reset the call ({code})")

    def _on_goaway(self, last: int) -> None:
        self.leaving = True
        for number in [number for number in self.streams if number > last]:
            self._on_reset(number, frames.REFUSED_STREAM)
        self._leave_when_empty()

    def _on_lost(self) -> None:
        for stream in list(self.streams.values()):
            assert isinstance(stream, Exchange)
            stream.end(grpc.StatusCode.UNAVAILABLE, "the connection is lost")

    def _find(self, number: int) -> Exchange | None:
        stream = self.streams.get(number)
        assert isinstance(stream, Exchange | None)
        return stream


class Channel:
    """The connection to `HOST:PORT`, while there is one. Belongs to one event loop; `close` it."""

    def __init__(self, address: str, credentials: Credentials | None = None) -> None:
        self._address = address
        self._credentials = credentials
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._connection: ClientConnection | None = None
        self._leaving: list[ClientConnection] = []
        """Those before it whose calls are not over."""
        self._connecting = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._closed = False

    def warm_up(self) -> None:
        """Connect in the background, so that the first call need not wait for it."""
        if self._watching is None and not self._closed:
            self._watching = asyncio.get_running_loop().create_task(self._watch(), name="keep-alive")

    async def stream(self, path: str, on_message: OnMessage, on_end: OnEnd) -> Exchange:
        """Begin a call with messages both ways. Raises: Failure (UNAVAILABLE) when nobody answers at the address."""
        connection = self._connection
        if connection is None or connection.closed or connection.leaving:
            connection = await self._connect()
        return connection.open(path, on_message, on_end, self._metadata())

    async def unary(self, path: str, message: bytes, timeout_s: float, *, as_nobody: bool = False) -> bytes:
        """The answer to one message; `as_nobody`: asked without a token. Raises: Failure.

        DEADLINE_EXCEEDED after `timeout_s` at the latest.
        """
        ended: asyncio.Future[tuple[grpc.StatusCode, str]] = asyncio.get_running_loop().create_future()
        answers: list[bytes] = []

        def on_end(code: grpc.StatusCode, details: str) -> None:
            if not ended.done():
                ended.set_result((code, details))

        exchange: Exchange | None = None
        try:
            async with asyncio.timeout(timeout_s) as limit:
                connection = await self._connect()
                left_s = (limit.when() or 0.0) - asyncio.get_running_loop().time()
                own = () if as_nobody else self._metadata()
                metadata = (("grpc-timeout", timeout(left_s).decode()), *own)
                exchange = connection.open(path, answers.append, on_end, metadata)
                exchange.send(message, ends=True)
                code, details = await ended
        except TimeoutError:
            raise Failure(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer in time") from None
        finally:
            if exchange is not None:
                exchange.cancel()
        if code is not grpc.StatusCode.OK or not answers:
            raise Failure(code if code is not grpc.StatusCode.OK else grpc.StatusCode.INTERNAL, details)
        return answers[0]

    async def close(self) -> None:
        """End what runs, and the connection."""
        self._closed = True
        if self._watching is not None:
            await end(self._watching)
        for connection in self._connections():
            connection.end(frames.NO_ERROR)

    async def _connect(self) -> ClientConnection:
        """Raises: Failure."""
        self.warm_up()
        async with self._connecting:
            connection = self._connection
            if connection is not None and not connection.closed and not connection.leaving:
                return connection
            if self._closed:
                raise Failure(grpc.StatusCode.UNAVAILABLE, "the channel is closed")
            try:
                async with asyncio.timeout(CONNECT_S):
                    connection = await self._make_connection()
            except (
                OSError,
                UnicodeError,
                TlsError,
            ) as error:  # TimeoutError is one; a name may be none that can be asked for
                raise Failure(grpc.StatusCode.UNAVAILABLE, f"{self._address} does not answer ({error})") from error
            if self._closed:
                connection.abort()
                raise Failure(grpc.StatusCode.UNAVAILABLE, "the channel is closed")
            self._leaving = self._connections()
            self._connection = connection
            return connection

    async def _make_connection(self) -> ClientConnection:
        context = self._credentials.context() if self._credentials is not None else None
        secure: dict[str, Any] = {}
        if self._credentials is not None and context is not None:
            secure = {"ssl": context, "server_hostname": self._credentials.name or self._host}
        make = asyncio.get_running_loop().create_connection
        _, connection = await make(lambda: ClientConnection(self._address), self._host, self._port, **secure)
        return connection

    def _metadata(self) -> Metadata:
        return self._credentials.metadata(self._address) if self._credentials is not None else ()

    def _connections(self) -> list[ClientConnection]:
        """All that are open."""
        known = (*self._leaving, self._connection)
        return [connection for connection in known if connection is not None and not connection.closed]

    async def _watch(self) -> None:
        """Connect at first; then ask a silent peer whether it is there."""
        with contextlib.suppress(Failure):
            await self._connect()
        while True:
            await asyncio.sleep(TICK_S)
            for connection in self._connections():
                silent_s = connection.pass_time(TICK_S)
                if silent_s >= 2 * KEEPALIVE_S:
                    connection.abort()
                elif silent_s == KEEPALIVE_S:
                    connection.ping()
