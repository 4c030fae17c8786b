"""The calls of one client at a server: what its frames say, becomes calls with handlers, and their answers go back.

The unary call is the path that counts: its fields are looked up, its message is a slice of what the socket gave, and
its answer is one write. Source of what is refused, and how: gRPC's core, whose sentences clients know.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, ClassVar, Final

import grpc
from grpc import aio

from headrace.rpc import frames
from headrace.rpc.age import READ, Farewell
from headrace.rpc.bounds import address_of
from headrace.rpc.call import Call
from headrace.rpc.connection import Connection, ProtocolError, Stream
from headrace.rpc.fields import Fields, literal
from headrace.rpc.messages import (
    ANSWER,
    MAX_METADATA,
    Asked,
    Failure,
    Metadata,
    Reader,
    asked,
    framed,
    trailers,
)
from headrace.rpc.methods import HEAD, TurnedAway
from headrace.rpc.packing import encoding_of, packed
from headrace.rpc.port import HANDSHAKE_S
from headrace.rpc.tls import auth_context

if TYPE_CHECKING:
    from headrace.rpc.server import Server

log = logging.getLogger(__name__)

MAX_KEPT: Final = 256 << 20
"""Bytes of messages that nobody has taken yet, over all calls of one connection."""
MAX_CALLS: Final = 8192
"""Calls at a time on one connection; more are refused unseen, and a client may send them again."""
MAX_REMEMBERED: Final = 64
TICK_S: Final = 1.0
KEEPALIVE_S: Final = 30.0
"""A peer that has been silent for so long is asked whether it is there, and dropped after as long again."""
OPENING: Final = len(frames.PREFACE) + frames.HEAD.size
OPENING_KIND: Final = len(frames.PREFACE) + 3
"""Bytes of a client's first words with the head of its first frame, and which of them says the frame's kind."""
NOT_GRPC: Final = b"\x08\x03415"
"""`:status` 415, its name by reference."""


class ServerConnection(Connection):
    """The calls of one client."""

    SETTINGS: ClassVar = {frames.MAX_CONCURRENT_STREAMS: MAX_CALLS}
    streams: dict[int, Stream]

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self._entered = ""
        """The address it is counted under, once it is."""
        self._preface: bytes | None = b""
        self._opening_s = 0.0
        """How long its first words have taken so far."""
        self._asked: dict[Fields, Asked] = {}
        self._kept = 0
        """Bytes in the readers of all its calls."""
        self.farewell: Farewell | None = None
        self.auth_context: dict[str, list[bytes]] = {}
        """Who the client is, as far as TLS says, under grpcio's names."""
        self.remembered: dict[Any, Any] = {}
        """What servicers have found out about the client, while it is connected. Whoever writes here bounds it."""
        self.running: set[asyncio.Task[None]] = set()
        """Handlers, until they have returned: some go on after their call is over."""

    # Life -----------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._server.connections.add(self)
        super().connection_made(transport)
        if self.closed:
            return
        self.farewell = Farewell(self._server.age, self)
        secured: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        self.auth_context = auth_context(secured)
        if secured is not None and secured.selected_alpn_protocol() != "h2":
            self.end(frames.PROTOCOL_ERROR, "the client has not agreed on h2")
        elif self._server.leaving:  # it was accepted just before
            self.say_goodbye()

    def _lets_in(self) -> bool:
        """Not with settings and a GOAWAY: to gRPC's clients settings are a connection, and its end no reason to wait.

        They come again at once, without end, and where the two came in one piece some kept asking the dead connection
        until their call's deadline (grpcio 1.85). Whom nobody answers waits a second, and longer each time.
        """
        if self._server.stopping:
            return False
        address = address_of(self.peer.partition(":")[2].rpartition(":")[0].strip("[]"))
        if reached := self._server.crowd.enter(address):
            self._server.limited[reached] += 1
            return False
        self._entered = address
        return True

    def data_received(self, data: bytes) -> None:
        if self._preface is not None:
            self._preface += data
            if not frames.PREFACE.startswith(self._preface[: len(frames.PREFACE)]):
                self.end(frames.PROTOCOL_ERROR, "this is no HTTP/2")
                return
            if len(self._preface) < OPENING:
                return
            if self._preface[OPENING_KIND] != frames.SETTINGS:
                self.end(frames.PROTOCOL_ERROR, "settings come first")
                return
            data, self._preface = self._preface[len(frames.PREFACE) :], None
        super().data_received(data)

    def pause_writing(self) -> None:
        """A client that does not read what it has asked for gets to ask for no more."""
        super().pause_writing()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.closed:
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self)
        if self._entered:
            self._server.crowd.leave(self._entered)
            self._entered = ""
        super().connection_lost(error)

    def _on_lost(self) -> None:
        if self.farewell is not None:
            self.farewell.stop()
        for stream in list(self.streams.values()):
            assert isinstance(stream, Call)
            self._drop(stream)
        for task in self.running:
            task.cancel()

    @property
    def refusing(self) -> bool:
        """The client has been told which calls were the last."""
        return self._final is not None

    def say_goodbye(self) -> None:
        """Tell the client that it should call elsewhere. It may still call here until it has heard that."""
        if self.farewell is not None:
            self.farewell.begin()

    def leave(self) -> None:
        """Tell the client to open no more calls here, and which of those it has opened were the last: once."""
        if self.farewell is not None and not self.farewell.settled:
            self.abort()
        elif self._final is None:
            self._final = self._last
            self.write(frames.goaway(self._final, frames.NO_ERROR))

    def _on_pong(self, payload: bytes) -> None:
        if payload == READ and self.farewell is not None:
            self.farewell.read()

    def tick(self) -> None:
        """A second has passed: perhaps a deadline with it, or a client."""
        now = time.monotonic()
        for stream in list(self.streams.values()):
            assert isinstance(stream, Call)
            self._tick_call(stream, now)
        self._tick_client()

    def _tick_call(self, call: Call, now: float) -> None:
        if call.deadline is not None and now > call.deadline + TICK_S:  # its caller has not said it is gone
            self.finish(call, grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
            if call.to_send is not None:  # its status would wait for a window that may never open
                self.write(frames.reset(call.number, frames.CANCEL))
            self._drop(call)
        elif call.turned_away is not None:
            if call.turned_away.tick():
                self.fail(call, call.turned_away.failure)
        elif call.is_waiting and self._writable is None:  # else nothing is read, and the rest may be there
            self._wait_for_message(call)
        else:
            call.waited = 0

    def _tick_client(self) -> None:
        silent_s = self.pass_time(TICK_S)
        if self._torn_s >= HANDSHAKE_S:
            self._server.limited["slow"] += 1
            super().end(frames.ENHANCE_YOUR_CALM, "a frame, or a block of fields, does not become whole")
        elif self._preface is not None:
            self._wait_for_opening()
        elif silent_s >= 2 * KEEPALIVE_S:
            self.abort()
        elif silent_s == KEEPALIVE_S:
            self.ping()

    def _wait_for_opening(self) -> None:
        self._opening_s += TICK_S
        if self._opening_s >= HANDSHAKE_S:
            self._server.limited["slow"] += 1
            self.abort()

    def _wait_for_message(self, call: Call) -> None:
        """A tick more: nobody may keep a call, and what was sent of its message, for as long as it likes."""
        call.waited += 1
        if call.waited * TICK_S > self._server.bounds.message_s:
            sentence = f"the message did not come within {self._server.bounds.message_s:g} s"
            self.fail(call, Failure(grpc.StatusCode.DEADLINE_EXCEEDED, sentence, bound="slow"))

    def end(self, code: int, why: str = "") -> None:
        """Say why, and close. An error of the peer's is counted."""
        if code and not self.closed:
            self._server.limited["calm" if code == frames.ENHANCE_YOUR_CALM else "protocol"] += 1
        super().end(code, why)

    # In -------------------------------------------------------------------------------------------------------------

    def _on_fields(self, number: int, fields: Fields, *, ends: bool) -> None:
        if number in self.streams:
            if not ends:
                raise ProtocolError(frames.PROTOCOL_ERROR, "a second block of fields that does not end its stream")
            self._on_data(number, b"", ends=True)
            return
        if not number % 2 or number <= self._last:
            raise ProtocolError(frames.PROTOCOL_ERROR, "a stream is opened out of order")
        if not self._last and self.farewell is not None:
            self.farewell.settle()
        self._last = number
        if self._final is not None or max(len(self.streams), len(self.running)) >= MAX_CALLS:
            if self._final is None:
                self._server.limited["calls"] += 1
            self.write(frames.reset(number, frames.REFUSED_STREAM))
            return
        try:
            self._open(number, fields, ends=ends)
        except Failure as failure:
            self._refuse(number, failure)

    def _open(self, number: int, fields: Fields, *, ends: bool) -> None:
        """Raises: Failure for a call that is not one."""
        said = self._asked.get(fields) or self._understand(fields)
        if not said.path:
            self._end_unheard(number, NOT_GRPC)
            return
        method = self._server.methods.find(said.path)
        if method is None:
            raise Failure(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        handler, rule = method
        call = Call(number, self._allowed_at_first, self, said, method)
        if self._server.compression != "none":
            call.encoding = encoding_of(self._server.compression, said)
        call.half_closed = ends
        if rule.admit is not None:
            try:
                call.caller = rule.admit(call)
            except Failure as failure:
                if ends or not (handler.request_streaming or handler.response_streaming):
                    raise
                call.turned_away = TurnedAway(failure)
        self.streams[number] = call
        if call.turned_away is not None:
            return
        if handler.request_streaming:
            call.reader = Reader(call.max_message, said.encoding)
            self._start(call, self._run_stream(call, call.requests()))
        elif ends:
            self.fail(call, Failure(grpc.StatusCode.INTERNAL, "the call has no message"))

    def _understand(self, fields: Fields) -> Asked:
        said = asked(fields)
        if said.size > MAX_METADATA:
            sentence = "received metadata size exceeds the limit"
            raise Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, sentence, bound="metadata")
        if len(self._asked) >= MAX_REMEMBERED:
            self._asked.clear()
        self._asked[fields] = said
        return said

    def _on_data(self, number: int, data: bytes, *, ends: bool) -> None:
        call = self.streams.get(number)
        assert isinstance(call, Call | None)
        if call is None or call.over:  # answered already, or given up
            return
        if call.half_closed:
            raise ProtocolError(frames.STREAM_CLOSED, "more after the end of a stream")
        call.half_closed = ends
        try:
            if call.turned_away is not None:
                self._turn_away(call, call.turned_away, data)
            elif not call.handler.request_streaming:
                self._take_message(call, data, ends=ends)
            elif self._keep(call, data) or ends:
                call.wake()
        except Failure as failure:
            self.fail(call, failure)

    def _turn_away(self, call: Call, message: TurnedAway, data: bytes) -> None:
        """Raises: Failure, once its caller can hear it."""
        if message.ends_with(data) or call.half_closed:
            raise message.failure
        self.give_back(call)

    def _take_message(self, call: Call, data: bytes, *, ends: bool) -> None:
        """The one message of a unary call: mostly a frame of its own."""
        if ends and call.reader is None and HEAD <= len(data) <= HEAD + call.max_message and not data[0]:
            if frames.UINT32.unpack_from(data, 1)[0] != len(data) - HEAD:
                raise Failure(grpc.StatusCode.INTERNAL, "the call's message is cut short, or is not one")
            self._start(call, self._run(call, data[HEAD:]))
            return
        if call.reader is None:
            call.reader = Reader(call.max_message, call.asked.encoding)
        self._keep(call, data)
        if ends:
            message = self.next_message(call)
            if message is None or len(call.reader):
                raise Failure(grpc.StatusCode.INTERNAL, "the call's message is cut short, or is not one")
            self._start(call, self._run(call, message))

    def _keep(self, call: Call, data: bytes) -> bool:
        """Whether a message is whole now; while none is, the caller may send more. Raises: Failure."""
        assert call.reader is not None, "This is a bug."
        call.reader.feed(data)
        self._kept += len(data)
        if self._kept > MAX_KEPT:
            sentence = "too many messages on one connection wait to be read"
            raise Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, sentence, bound="kept")
        ready = call.reader.ready()
        if not ready:
            self.give_back(call)
        return ready

    def next_message(self, call: Call) -> bytes | None:
        """The next message of a call, once it is whole. Raises: Failure for one that cannot be read."""
        assert call.reader is not None, "This is a bug."
        before = len(call.reader)
        try:
            message = call.reader.next()
        finally:
            self._kept -= before - len(call.reader)
        if message is None and call.half_closed and len(call.reader):
            raise Failure(grpc.StatusCode.INTERNAL, "the call's last message is cut short")
        if not call.half_closed and not call.reader.ready():
            self.give_back(call)
        return message

    def _on_reset(self, number: int, _: int) -> None:
        call = self.streams.get(number)
        assert isinstance(call, Call | None)
        if call is not None:
            self._drop(call)

    # Handlers -------------------------------------------------------------------------------------------------------

    def _start(self, call: Call, work: Coroutine[Any, Any, None]) -> None:
        call.task = asyncio.get_running_loop().create_task(work)
        self.running.add(call.task)
        call.task.add_done_callback(self.running.discard)

    async def _run(self, call: Call, message: bytes) -> None:
        """A call with one message."""
        handler = call.handler
        try:
            request = self.deserialize(call, message)
            if handler.response_streaming:
                await self._run_stream(call, request)
                return
            answer = await handler.unary_unary(request, call)
            if not call.over:
                self._answer_whole(call, handler.response_serializer(answer))
        except BaseException as error:
            self._failed(call, error)
            if not isinstance(error, Exception):
                raise

    async def _run_stream(self, call: Call, request: Any) -> None:
        """A call whose messages come, or go, one by one."""
        handler = call.handler
        try:
            method = handler.unary_stream or handler.stream_stream or handler.stream_unary
            result = method(request, call)
            if hasattr(result, "__aiter__"):
                async with contextlib.aclosing(result):  # its last words are due now, not at the next collection
                    async for message in result:
                        await call.write(message)
            else:
                answer = await result
                if not handler.response_streaming and not call.over:
                    self.answer(call, handler.response_serializer(answer))
            if not call.over:
                self.finish(call, grpc.StatusCode.OK, "", call.trailing)
        except BaseException as error:
            self._failed(call, error)
            if not isinstance(error, Exception):
                raise

    def deserialize(self, call: Call, message: bytes) -> Any:
        """Raises: Failure."""
        try:
            return call.handler.request_deserializer(message)
        except Failure:
            raise
        except Exception:  # noqa: BLE001  whatever it is, the bytes were at fault, and are not to be told
            raise Failure(grpc.StatusCode.INTERNAL, "Exception deserializing request!") from None

    def _failed(self, call: Call, error: BaseException) -> None:
        """A handler has ended on an error: its caller gets a status, where it is still there."""
        call.task = None  # the error holds the call, which would hold the task, which holds the error
        if isinstance(error, Failure):
            self.fail(call, error)
        elif isinstance(error, asyncio.CancelledError):
            self.finish(call, grpc.StatusCode.CANCELLED, "")
        else:
            if not isinstance(error, aio.AbortError):
                log.error("a handler of %s failed", call.asked.path, exc_info=error)
            self.finish(call, grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}")

    # Out ------------------------------------------------------------------------------------------------------------

    def _answer_whole(self, call: Call, message: bytes) -> None:
        """The answer of a unary call, in one write where the client's windows allow."""
        number = call.number
        opening, data = _compressed(call, message) if call.encoding else (ANSWER, framed(message))
        before = frames.frame(frames.HEADERS, frames.END_HEADERS, number, self._resize + opening)
        block = self._resize + trailers(grpc.StatusCode.OK, "", call.trailing)
        after = frames.fields(number, block, frames.END_STREAM)
        self.send(call, before, data, after)
        self._over(call)

    def answer(self, call: Call, message: bytes) -> None:
        """One message of several."""
        opening, data = _compressed(call, message) if call.encoding else (ANSWER, framed(message))
        before = b"" if call.opened else frames.fields(call.number, self._resize + opening)
        call.opened = True
        self.send(call, before, data)

    def finish(self, call: Call, code: grpc.StatusCode, details: str, metadata: Metadata = ()) -> None:
        """End a call with its status; nothing, where it is over."""
        if call.over:
            return
        block = trailers(code, details, metadata)
        if not call.opened:
            block = ANSWER + block
        last = frames.fields(call.number, self._resize + block, frames.END_STREAM)
        if not call.half_closed:  # the caller need not send the rest
            last += frames.reset(call.number, frames.NO_ERROR)
        if call.to_send is None:
            self.write(last)
        else:
            call.to_send.append((b"", last))
        self._over(call)

    def fail(self, call: Call, failure: Failure) -> None:
        """End a call whose caller has sent what cannot be read, and whatever works at it."""
        if failure.bound and not call.over:
            self._server.limited[failure.bound] += 1
        self.finish(call, failure.code, str(failure), failure.metadata)
        if call.task is not None and call.task is not asyncio.current_task():
            call.task.cancel()

    def _refuse(self, number: int, failure: Failure) -> None:
        """A call that does not get as far as a handler."""
        if failure.bound:
            self._server.limited[failure.bound] += 1
        self._end_unheard(number, ANSWER + trailers(failure.code, str(failure), failure.metadata))

    def _end_unheard(self, number: int, block: bytes) -> None:
        last = frames.fields(number, self._resize + block, frames.END_STREAM)
        self.write(last + frames.reset(number, frames.NO_ERROR))

    def _on_sent(self, stream: Stream) -> None:
        assert isinstance(stream, Call)
        if stream.over:
            self.forget(stream)

    def _over(self, call: Call) -> None:
        """Its status is out, or waits for the client's window behind its messages."""
        call.over = True
        if call.leaving is not None:
            call.leaving()
        if call.reader is not None:
            self._kept -= len(call.reader)
            call.reader = None
            call.wake()
        if call.to_send is None:
            self.forget(call)

    def _drop(self, call: Call) -> None:
        """Nobody waits for its answer any more."""
        if not call.over:
            self._over(call)
        if call.task is not None:
            call.task.cancel()
        self.forget(call)


def _compressed(call: Call, message: bytes) -> tuple[bytes, bytes]:
    """The fields that open a compressed answer, and a message of it."""
    return ANSWER + literal(b"grpc-encoding", call.encoding), packed(message, call.encoding)
