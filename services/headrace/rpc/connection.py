"""One HTTP/2 connection, either side: frames in, frames out, flow control, and what a peer may not do.

Knows no gRPC: what a call's fields and bytes mean is for the class that inherits. Every method runs on the event loop
and none awaits; whoever wants to wait for the peer waits for `Stream.sent`. RFC 9113.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import ClassVar, Final, cast

from hpack import HPACKError

from headrace.rpc import frames
from headrace.rpc.fields import Fields, FieldsDecoder

log = logging.getLogger(__name__)

WINDOW: Final = 16 << 20
"""Bytes that a peer may have on the way to us, over all streams."""
STREAM_WINDOW: Final = 1 << 20
"""The same for one stream."""
MAX_BLOCK: Final = 32_768
"""Bytes of one block of fields, over all its frames: more would hold up the others for too long."""
UNREAD_BYTES: Final = 4 << 20
"""Answers a peer does not read are kept up to about this much; then we stop reading what it asks."""
LAST_WORDS_S: Final = 0.5
"""What a peer is still owed when a connection ends is on its way for so long at most."""
CREDIT: Final = 1000.0
CREDIT_A_SECOND: Final = 10.0
"""What a peer may send without asking for anything: pings, settings, resets, empty frames, windows. Data earns one
back."""
SENT_EARNS: Final = 4.0
"""What a frame of data earns whoever gets it: two windows are opened again for it, perhaps in steps."""
TOO_MUCH: Final = "too much that asks for nothing"
TOO_MANY_PINGS: Final = "too_many_pings"
"""What gRPC's clients know: they ping half as often from then on."""


class ProtocolError(Exception):
    """The peer has broken HTTP/2, which ends the connection with this code."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class Stream:
    """One call's two directions, as flow control sees them."""

    __slots__ = ("allowed", "number", "sent", "taken", "to_send")

    def __init__(self, number: int, allowed: int) -> None:
        self.number = number
        self.allowed = allowed
        """Bytes of data the peer's window for this stream still takes; below zero when it has shrunk it."""
        self.taken = 0
        """Bytes of the peer's that we have not given back to its window for this stream."""
        self.to_send: deque[tuple[bytes | memoryview, bytes]] | None = None
        """Data that waits for the peer's window, each with the frames that follow it; None = nothing waits."""
        self.sent: asyncio.Future[None] | None = None
        """Who waits until nothing waits."""


class Connection(asyncio.Protocol):
    """What both sides share. `streams` holds who may still get or send something."""

    SETTINGS: ClassVar[dict[int, int]] = {}
    """Beside the windows, which are alike on both sides."""

    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}
        self.peer = ""
        """`ipv4:HOST:PORT`, as gRPC writes it."""
        self.closed = False
        self._transport: asyncio.Transport
        self._fields = FieldsDecoder()
        self._heard = True
        self._silent_s = 0.0
        self._unread = b""
        self._progress = False
        """A whole frame has come since the last look."""
        self._torn_s = 0.0
        """How long the frame, or the block of fields, that is on its way has taken so far."""
        self._block: tuple[int, int, bytes] | None = None
        """Stream, flags and fields so far of a block that goes on in CONTINUATION frames."""
        self._last = 0
        """The highest stream that was opened."""
        self._final: int | None = None
        """The last stream that is taken, once the peer has been told: no later goodbye may allow more."""
        self._credit = CREDIT
        self._taken = 0
        self._allowed = frames.DEFAULT_WINDOW
        self._allowed_at_first = frames.DEFAULT_WINDOW
        self._largest = frames.DEFAULT_FRAME
        self._held: dict[int, Stream] = {}
        """Streams with data that waits for the window of the whole connection, whose turn is next first."""
        self._resize = b""
        """What each block of ours begins with: the peer may want to hear that we keep no table."""
        self._writable: asyncio.Future[None] | None = None
        self._outgoing: list[bytes] = []

    # For who inherits ---------------------------------------------------------------------------------------------

    def _opening(self) -> bytes:
        """What goes out first."""
        ours = {frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW, frames.MAX_HEADER_LIST_SIZE: MAX_BLOCK, **self.SETTINGS}
        return frames.settings(ours) + frames.window_update(0, WINDOW - frames.DEFAULT_WINDOW)

    def _lets_in(self) -> bool:
        """Whether this peer gets a connection at all; else it is closed without a word."""
        return True

    def _on_fields(self, number: int, fields: Fields, *, ends: bool) -> None:
        """A block of fields has come."""
        raise NotImplementedError

    def _on_data(self, number: int, data: bytes, *, ends: bool) -> None:
        """Data has come; the connection's window is already open for more."""
        raise NotImplementedError

    def _on_reset(self, number: int, code: int) -> None:
        """The peer has given up a stream."""
        raise NotImplementedError

    def _on_sent(self, stream: Stream) -> None:
        """What has waited on a stream is out."""

    def _on_pong(self, payload: bytes) -> None:
        """The peer has read what we sent before a ping."""

    def _on_goaway(self, last: int) -> None:
        """The peer takes no new streams."""

    def _on_lost(self) -> None:
        """The connection has ended, however."""
        raise NotImplementedError

    # asyncio calls these --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has the methods, not the class
        self._transport.set_write_buffer_limits(high=UNREAD_BYTES)
        self.peer = _peer(transport.get_extra_info("peername"))
        if self._lets_in():
            self._transport.write(self._opening())
        else:
            self.abort()

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        self._heard = True
        try:
            self._read(self._unread + data if self._unread else data)
        except ProtocolError as error:
            self.end(error.code, str(error))
        except HPACKError as error:
            self.end(frames.COMPRESSION_ERROR, type(error).__name__)  # its sentence quotes what came
        except Exception:  # the outer guard: one connection's trouble is not the others'
            log.exception("a connection failed on an error of ours")
            self.end(frames.INTERNAL_ERROR, "internal error")

    def pause_writing(self) -> None:
        """The peer does not read what it is sent."""
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    def connection_lost(self, _: Exception | None) -> None:
        self._let_go()

    # In -------------------------------------------------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        """Take every whole frame; keep the rest."""
        at, size = 0, len(data)
        unpack = frames.HEAD.unpack_from
        while size - at >= 9 and not self.closed:
            high, low, kind, flags, number = unpack(data, at)
            end = at + 9 + (high << 16 | low)
            if end - at - 9 > frames.DEFAULT_FRAME:
                raise ProtocolError(frames.FRAME_SIZE_ERROR, "a frame is larger than SETTINGS_MAX_FRAME_SIZE")
            if end > size:
                break
            self._take(kind, flags, number & 0x7FFFFFFF, data[at + 9 : end])
            at = end
        if at:
            self._progress = True
        self._unread = data[at:] if at < size else b""

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block is not None and kind != frames.CONTINUATION:
            raise ProtocolError(frames.PROTOCOL_ERROR, "a block of fields is not over")
        if kind == frames.DATA:
            self._take_data(flags, number, payload)
        elif kind == frames.HEADERS:
            if flags & (frames.PADDED | frames.WITH_PRIORITY):
                payload = _unpadded(flags, payload)
            self._take_block(number, flags, payload)
        elif kind == frames.WINDOW_UPDATE:
            self._spend()
            self._take_window(number, _uint32(payload) & 0x7FFFFFFF)
        else:
            self._take_rare(kind, flags, number, payload)

    def _take_data(self, flags: int, number: int, payload: bytes) -> None:
        if not number & 1 or number > self._last:
            raise ProtocolError(frames.PROTOCOL_ERROR, "data on a stream that was never opened")
        size = len(payload)
        self._taken += size
        if self._taken >= WINDOW // 2:  # padding counts; who reads slowly is held back by its stream's window
            self.write(frames.window_update(0, self._taken))
            self._taken = 0
        if flags & frames.PADDED:
            payload = _unpadded(flags, payload)
        ends = bool(flags & frames.END_STREAM)
        if not payload and not ends:
            self._spend()
        if (stream := self.streams.get(number)) is None:  # over, which the peer could not know
            return
        if payload and self._credit < CREDIT:
            self._credit += 1
        stream.taken += size
        if stream.taken > STREAM_WINDOW:
            raise ProtocolError(frames.FLOW_CONTROL_ERROR, "more data than the stream's window takes")
        self._on_data(number, payload, ends=ends)

    def _take_block(self, number: int, flags: int, block: bytes) -> None:
        if len(block) > MAX_BLOCK:
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, "a block of fields is too large")
        if not flags & frames.END_HEADERS:
            self._block = number, flags, block
            return
        self._block = None
        self._on_fields(number, self._fields.decode(block), ends=bool(flags & frames.END_STREAM))

    def _take_rare(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """What a peer sends now and then, and could send without end: it costs credit."""
        self._spend(TOO_MANY_PINGS if kind == frames.PING else TOO_MUCH)
        if kind == frames.CONTINUATION:
            self._take_continuation(flags, number, payload)
        elif kind == frames.PING:
            self._take_ping(flags, number, payload)
        elif kind == frames.SETTINGS:
            self._take_settings(flags, number, payload)
        elif kind == frames.RST_STREAM:
            self._check_opened(number)
            self._on_reset(number, _uint32(payload))
        elif kind == frames.GOAWAY:
            _check_whole(number)
            _check_size(payload, 8, more=True)
            self._on_goaway(_uint32(payload[:4]) & 0x7FFFFFFF)
        elif kind == frames.PRIORITY and number:  # nobody heeds it any more
            _check_size(payload, 5)
        elif kind in (frames.PRIORITY, frames.PUSH_PROMISE):
            raise ProtocolError(frames.PROTOCOL_ERROR, "a frame that may not come here")

    def _take_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != number:
            raise ProtocolError(frames.PROTOCOL_ERROR, "nothing to continue")
        if flags & frames.END_HEADERS:
            self._torn_s = 0.0
        self._take_block(number, self._block[1] | flags & frames.END_HEADERS, self._block[2] + payload)

    def _check_opened(self, number: int) -> None:
        if not number & 1 or number > self._last:
            raise ProtocolError(frames.PROTOCOL_ERROR, "a stream that was never opened")

    def _take_ping(self, flags: int, number: int, payload: bytes) -> None:
        _check_whole(number)
        _check_size(payload, 8)
        if flags & frames.ACK:
            self._on_pong(payload)
        else:
            self.write(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _spend(self, sentence: str = TOO_MUCH) -> None:
        self._credit -= 1
        if self._credit < 0:
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, sentence)

    def pass_time(self, seconds: float) -> float:
        """For how many seconds the peer has been silent. Called every so many by whoever owns the connection."""
        self._credit = min(CREDIT, self._credit + CREDIT_A_SECOND * seconds)
        torn = self._block is not None or (bool(self._unread) and not self._progress)
        self._torn_s = self._torn_s + seconds if torn and self._writable is None else 0.0  # else it is we who wait
        self._progress = False
        self._silent_s = 0.0 if self._heard else self._silent_s + seconds
        self._heard = False
        return self._silent_s

    def _take_settings(self, flags: int, number: int, payload: bytes) -> None:
        _check_whole(number)
        if len(payload) % 6 or (flags & frames.ACK and payload):
            raise ProtocolError(frames.FRAME_SIZE_ERROR, "settings are pairs")
        if flags & frames.ACK:
            return
        chosen: dict[int, int] = dict(frames.SETTING.iter_unpack(payload))  # the last word on each counts
        if not frames.DEFAULT_FRAME <= chosen.get(frames.MAX_FRAME_SIZE, self._largest) <= frames.LARGEST_FRAME:
            raise ProtocolError(frames.PROTOCOL_ERROR, "a frame size that may not be")
        if chosen.get(frames.ENABLE_PUSH, 0) > 1:
            raise ProtocolError(frames.PROTOCOL_ERROR, "push is on or off")
        self._largest = chosen.get(frames.MAX_FRAME_SIZE, self._largest)
        if chosen.get(frames.HEADER_TABLE_SIZE, frames.DEFAULT_TABLE) < frames.DEFAULT_TABLE:
            self._resize = b"\x20"  # to nothing: it must be told that the table has shrunk, used or not
        if frames.INITIAL_WINDOW_SIZE in chosen:
            self._move_windows(chosen[frames.INITIAL_WINDOW_SIZE])
        self.write(frames.frame(frames.SETTINGS, frames.ACK, 0, b""))
        self._send_held()

    def _move_windows(self, at_first: int) -> None:
        """The peer's window for every stream, by as much as the one at first has changed."""
        for stream in self.streams.values():
            stream.allowed += at_first - self._allowed_at_first
            _check_window(stream.allowed)
            if stream.to_send is not None:
                self._held[stream.number] = stream
        _check_window(at_first)
        self._allowed_at_first = at_first

    def _take_window(self, number: int, octets: int) -> None:
        if not octets:
            raise ProtocolError(frames.PROTOCOL_ERROR, "a window is opened by nothing")
        if not number:
            self._allowed += octets
            _check_window(self._allowed)
        elif (stream := self.streams.get(number)) is None:
            self._check_opened(number)
        else:
            stream.allowed += octets
            _check_window(stream.allowed)
            if stream.to_send is not None:
                self._held[number] = stream
        if self._held:
            self._send_held()

    # Out ------------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send whole frames, in one piece with whatever else goes out in this turn of the loop."""
        if self.closed:
            return
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing.append(data)

    def _flush(self) -> None:
        if self._outgoing and not self._transport.is_closing():
            self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()

    def send(self, stream: Stream, before: bytes, data: bytes, after: bytes = b"", flags: int = 0) -> None:
        """Send data as far as the peer's windows allow; the rest, and the frames `after` it, go when they open.

        `before` goes at once. `flags` are those of the last frame of data.
        """
        size = len(data)
        if stream.to_send is None and size <= stream.allowed and size <= self._allowed and size <= self._largest:
            stream.allowed -= size
            self._allowed -= size
            self._credit += SENT_EARNS
            self.write(
                before + frames.HEAD.pack(size >> 16, size & 0xFFFF, frames.DATA, flags, stream.number) + data + after
            )
            return
        if before:
            self.write(before)
        if flags:  # an empty frame says the same, and nothing more need be remembered
            after = frames.frame(frames.DATA, flags, stream.number, b"")
        if stream.to_send is not None:
            stream.to_send.append((data, after))
            return
        stream.to_send = deque([(data, after)])
        self._held[stream.number] = stream
        self._send_held()

    def give_back(self, stream: Stream) -> None:
        """Open the peer's window for a stream as far as it was at first."""
        if stream.taken >= STREAM_WINDOW // 2:
            self.write(frames.window_update(stream.number, stream.taken))
            stream.taken = 0

    async def drained(self, stream: Stream) -> None:
        """Until nothing of the stream waits to be sent and the socket has room again; the next turn at the earliest."""
        await asyncio.sleep(0)  # only then does the socket get what was written, and may say that it is full
        while stream.to_send is not None and not self.closed:
            if stream.sent is None:
                stream.sent = asyncio.get_running_loop().create_future()
            await asyncio.shield(stream.sent)  # others may wait for the same
        if self._writable is not None:
            await asyncio.shield(self._writable)

    def forget(self, stream: Stream) -> None:
        """Neither side has anything more to say on it."""
        self.streams.pop(stream.number, None)
        self._held.pop(stream.number, None)
        stream.to_send = None
        _release(stream)

    def end(self, code: int, why: str = "") -> None:
        """Say why, and close.

        Without an error we wait for the peer to close as well: bytes of its that nobody reads would cut off our words.
        """
        if self.closed:
            return
        self.write(frames.goaway(self._last if self._final is None else self._final, code, why))
        self._flush()
        if code:
            log.debug("the connection of %s ends: %s", self.peer, why)  # who counts it says more; a flood fills no log
            self._transport.close()
        elif self._transport.can_write_eof():
            with contextlib.suppress(OSError, RuntimeError):  # it is lost, and we have not heard yet
                self._transport.write_eof()
        else:
            self._transport.close()  # of TLS: it says that nothing more comes, and waits for the peer to say so
        # The peer may not read, or not leave.
        asyncio.get_running_loop().call_later(LAST_WORDS_S, self._transport.abort)
        self._let_go()

    def abort(self) -> None:
        """Close at once: a peer that does not read would hold up a polite end."""
        self._let_go()
        self._transport.abort()

    def _let_go(self) -> None:
        """Nothing goes in or out any more, so nobody must wait for it, however long the socket takes to close."""
        if self.closed:
            return
        self.closed = True
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None
        self._on_lost()

    def ping(self) -> None:
        self.write(frames.frame(frames.PING, 0, 0, b"headrace"))

    def _send_held(self) -> None:
        """A frame of each stream in turn, so that a large answer does not hold up the others."""
        while self._held and self._allowed > 0:
            number = next(iter(self._held))
            stream = self._held.pop(number)
            if self._send_some(stream):
                self._held[number] = stream

    def _send_some(self, stream: Stream) -> bool:
        """One frame of what waits on a stream. True = the next waits for the connection's window alone."""
        waiting = stream.to_send
        assert waiting, "This is a bug."
        data, after = waiting[0]
        size = min(len(data), stream.allowed, self._allowed, self._largest)
        if size <= 0:
            return False
        stream.allowed -= size
        self._allowed -= size
        self._credit += SENT_EARNS
        head = frames.frame(frames.DATA, 0, stream.number, data[:size])
        if size < len(data):
            waiting[0] = memoryview(data)[size:], after
            self.write(head)
            return stream.allowed > 0
        self.write(head + after)
        waiting.popleft()
        while waiting and not waiting[0][0]:  # a status needs no window
            self.write(waiting.popleft()[1])
        if waiting:
            return stream.allowed > 0
        stream.to_send = None
        _release(stream)
        self._on_sent(stream)
        return False


def _release(stream: Stream) -> None:
    if stream.sent is not None and not stream.sent.done():
        stream.sent.set_result(None)
    stream.sent = None


def _check_whole(number: int) -> None:
    if number:
        raise ProtocolError(frames.PROTOCOL_ERROR, "a stream where the whole connection is meant")


def _check_size(payload: bytes, octets: int, *, more: bool = False) -> None:
    """It has so many bytes, or `more`."""
    if len(payload) < octets or (len(payload) > octets and not more):
        raise ProtocolError(frames.FRAME_SIZE_ERROR, f"{octets} bytes were expected")


def _check_window(allowed: int) -> None:
    if allowed > frames.LARGEST_WINDOW:
        raise ProtocolError(frames.FLOW_CONTROL_ERROR, "a window is larger than a window may be")


def _unpadded(flags: int, payload: bytes) -> bytes:
    """A payload without its padding, and without a priority, which nobody heeds any more."""
    begin, padding = 0, 0
    if flags & frames.PADDED:
        if not payload:
            raise ProtocolError(frames.FRAME_SIZE_ERROR, "padding without its length")
        begin, padding = 1, payload[0]
    if flags & frames.WITH_PRIORITY:
        begin += 5
    if begin + padding > len(payload):
        raise ProtocolError(frames.PROTOCOL_ERROR, "more padding than payload")
    return payload[begin : len(payload) - padding]


def _uint32(payload: bytes) -> int:
    _check_size(payload, 4)
    return int(frames.UINT32.unpack(payload)[0])


def _peer(address: object) -> str:
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[:2]
        return f"ipv6:[{host}]:{port}" if ":" in str(host) else f"ipv4:{host}:{port}"
    return "unix:"
