"""A gRPC server for asyncio on our own HTTP/2: takes the servicers that grpc.aio's server takes.

The unary call is the path that counts: its fields are looked up, its message is a slice of what the socket gave, and
its answer is one write. Source of what is refused, and how: gRPC's core, whose sentences clients know.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ClassVar, Final

import grpc
from grpc import aio

from headrace.rpc import frames
from headrace.rpc.age import READ, Age, Farewell
from headrace.rpc.bounds import MAX_HANDSHAKES, TOO_MANY, USUAL, Bounds, Crowd, address_of
from headrace.rpc.call import Call
from headrace.rpc.connection import LAST_WORDS_S, Connection, ProtocolError, Stream
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
from headrace.rpc.methods import HEAD, Methods, Rule, TurnedAway
from headrace.rpc.packing import Compression, encoding_of, packed
from headrace.rpc.port import HANDSHAKE_S, Port, bind
from headrace.rpc.tls import Watched, auth_context

log = logging.getLogger(__name__)

MAX_KEPT: Final = 256 << 20
"""Bytes of messages that nobody has taken yet, over all calls of one connection."""
MAX_CALLS: Final = 8192
"""Calls at a time on one connection; more are refused unseen, and a client may send them again."""
MAX_REMEMBERED: Final = 64
TICK_S: Final = 1.0
KEEPALIVE_S: Final = 30.0
"""A peer that has been silent for so long is asked whether it is there, and dropped after as long again."""
CLEAN_UP_S: Final = 5.0
"""What a handler does after it was cancelled may take so long; then the server stops without it."""
OPENING: Final = len(frames.PREFACE) + frames.HEAD.size
OPENING_KIND: Final = len(frames.PREFACE) + 3
"""Bytes of a client's first words with the head of its first frame, and which of them says the frame's kind."""
NOT_GRPC: Final = b"\x08\x03415"
"""`:status` 415, its name by reference."""


class Server:
    """Ports, connections and handlers. Filled by generated `add_…Servicer_to_server` functions.

    `rule_of` says what a path asks of its callers; `age`, how old their connections may become: None = as they like.
    """

    def __init__(
        self,
        *,
        share_port: bool = False,
        rule_of: Callable[[str], Rule] = lambda _: Rule(),
        age: Age | None = None,
        bounds: Bounds = USUAL,
    ) -> None:
        self._share_port = share_port
        self.age = age
        self.bounds = bounds
        self.crowd = Crowd(bounds.most, bounds.connections_of_one)
        self._shaking = Crowd(MAX_HANDSHAKES, bounds.connections_of_one or MAX_HANDSHAKES // 4)
        self.limited: Counter[str] = Counter()
        """How often a peer has run into which of `BOUNDS`."""
        self.compression: Compression = "none"
        """Of answers."""
        self.methods = Methods(rule_of)
        self._ports: list[Port] = []
        self._ticking: asyncio.Task[None] | None = None
        self.connections: set[ServerConnection] = set()
        self.leaving = False
        """Its port is closed, and who is connected is told to call elsewhere."""
        self.stopping = False

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        self.methods.add(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Generated code says everything twice; the generic handlers are enough."""

    def add_insecure_port(self, address: str) -> int:
        """Bind `HOST:PORT`, port 0 = any free one; the number it got. Raises: OSError when it is taken."""
        return self._bind(address, None)

    def add_secure_port(self, address: str, tls: Watched[ssl.SSLContext]) -> int:
        """The same for TLS alone. A second after its files have changed, new connections use the new ones."""
        return self._bind(address, tls)

    def _bind(self, address: str, tls: Watched[ssl.SSLContext] | None) -> int:
        opened = bind(address, share=self._share_port)
        make = partial(ServerConnection, self)
        self._ports += [Port(bound, tls, make, self._shaking, self.limited) for bound in opened]
        return int(opened[-1].getsockname()[1])

    async def start(self) -> None:
        """Begin to listen."""
        loop = asyncio.get_running_loop()
        for port in self._ports:
            await port.listen()
        self._ticking = loop.create_task(self._tick(), name="tick")

    async def say_goodbye(self, patience_s: float) -> None:
        """Have who is connected call elsewhere: until all have heard of it, or `patience_s`. Calls are still taken.

        Nobody can connect any more: who has this address as one of several would come back here, and be refused then.
        """
        self.leaving = True
        for port in self._ports:
            await port.close()
        for connection in list(self.connections):
            connection.say_goodbye()
        await _until(lambda: all(one.refusing or one.closed for one in self.connections), patience_s)

    async def stop(self, grace_s: float | None) -> None:
        """Take no new connections or calls, give those that run `grace_s` (None = none at all), then cut them off."""
        self.stopping = True
        for port in self._ports:
            await port.close()
        for connection in list(self.connections):
            connection.leave()
        await _until(lambda: not any(connection.streams for connection in self.connections), grace_s or 0.0)
        for connection in list(self.connections):
            connection.end(frames.NO_ERROR)
        tasks = [task for connection in self.connections for task in connection.running]
        if self._ticking is not None:
            self._ticking.cancel()
            tasks.append(self._ticking)
        if tasks:
            await asyncio.wait(tasks, timeout=CLEAN_UP_S)
        await _until(lambda: not self.connections, LAST_WORDS_S)
        for connection in list(self.connections):  # it ended on an error before, with a client that does not read
            connection.abort()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for connection in list(self.connections):
                try:
                    connection.tick()
                except Exception:  # the outer guard: the others' deadlines must still pass
                    log.exception("a connection failed on an error of ours")
                    connection.abort()
            for port in self._ports:
                port.tick()


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
        address = address_of(self.peer.partition(":")[2].rpartition(":")[0].strip("[]"))
        if reached := self._server.crowd.enter(address):
            self._server.limited[reached] += 1
            super().end(frames.ENHANCE_YOUR_CALM, TOO_MANY[reached])
            return
        self._entered = address
        self.farewell = Farewell(self._server.age, self)
        secured: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        self.auth_context = auth_context(secured)
        if secured is not None and secured.selected_alpn_protocol() != "h2":
            self.end(frames.PROTOCOL_ERROR, "the client has not agreed on h2")
        elif self._server.stopping:
            self.end(frames.NO_ERROR)
        elif self._server.leaving:  # it was accepted just before
            self.say_goodbye()

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
        if self._final is None:
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


async def _until(done: Callable[[], bool], seconds: float) -> None:
    """Until it is done, or so much time has passed."""
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:  # noqa: ASYNC110  many parts' state; none of them signals it
        await asyncio.sleep(0.01)
