"""As much of HTTP/2 as unary gRPC calls need, over a plain socket: the generator's share of the cores must be small.

grpcio costs its caller several times as much a call, and on a machine that the server shares that is the server's
time. Written for one process that waits in `select`: nothing here blocks once the connection is made. What a server may
do and gRPC's never does (padding, CONTINUATION, Huffman-coded status) is an error, not a guess. RFC 9113; gRPC over
HTTP/2: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote

from headrace.rpc.fields import literal
from headrace.rpc.frames import (
    ACK,
    DATA,
    DEFAULT_FRAME,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEAD,
    HEADERS,
    LARGEST_WINDOW,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)

OUR_SETTINGS: Final = struct.pack(">HIHIHI", 1, 0, 2, 0, 4, LARGEST_WINDOW)
"""No dynamic table (each block of headers can be read by itself, and later), no push, answers of any size."""
READ_BYTES: Final = 1 << 18

OnEnd = Callable[[int, bytes, bytes], None]
"""Gets the call's number, the message it was answered with (or none), and how it ended: its trailers, or a word."""
CONNECTION_LOST: Final = b"connection lost"


class Connection:
    """One connection to a gRPC server, and the calls under way on it."""

    def __init__(self, address: str, method: str, on_end: OnEnd) -> None:
        """Connect and shake hands, blocking. `method` is `/package.Service/Method`. Raises: OSError."""
        host, port = address.rsplit(":", 1)
        self._headers = b"\x83\x86" + literal(b":path", method.encode()) + literal(b":authority", address.encode())
        self._headers += literal(b"te", b"trailers")  # codespell:ignore te
        self._headers += literal(b"content-type", b"application/grpc")
        self._on_end = on_end
        self._calls: dict[int, int] = {}
        self._bodies: dict[int, bytes] = {}
        self._next_stream = 1
        self._credit = DEFAULT_WINDOW
        self._stream_credit = 0
        self._held: deque[tuple[int, bytes]] = deque()
        self._unsent = bytearray()
        self._unread = b""
        self.lost = False
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, OUR_SETTINGS))
        self.socket.sendall(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", LARGEST_WINDOW - DEFAULT_WINDOW)))
        while not self._stream_credit:
            self.read()
            if self.lost:
                raise ConnectionError(f"{address} does not speak HTTP/2")
        self.socket.setblocking(False)

    def fileno(self) -> int:
        return self.socket.fileno()

    @property
    def wants_to_write(self) -> bool:
        return bool(self._unsent)

    def call(self, number: int, message: bytes, timeout_s: float) -> None:
        """Start a call, which goes out with the next `flush`; one on a lost connection ends at once.

        Raises: ValueError for a message larger than what a stream may carry unasked.
        """
        if self.lost:
            self._on_end(number, b"", CONNECTION_LOST)
            return
        if len(message) + 5 > self._stream_credit:
            raise ValueError(f"a message of {len(message)} bytes does not fit into one stream window")
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._calls[stream] = number
        timeout = b"%du" % max(1, round(timeout_s * 1e6))
        headers = self._headers + literal(b"grpc-timeout", timeout)
        size = len(message) + 5
        framed = frame(HEADERS, END_HEADERS, stream, headers) + body_frames(stream, message)
        if self._held or size > self._credit:
            self._held.append((size, framed))
            return
        self._credit -= size
        self._unsent += framed

    def read(self) -> None:
        """Take what has come, and tell of the calls it ends."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose()
            return
        data = self._unread + data
        place, size = 0, len(data)
        while size - place >= HEAD.size:
            high, low, kind, flags, stream = HEAD.unpack_from(data, place)
            begin = place + HEAD.size
            end = begin + (high << 16 | low)
            if end > size:
                break
            self._take(kind, flags, stream, data[begin:end])
            place = end
        self._unread = data[place:]

    def flush(self) -> None:
        """Write as much of what has gathered as the socket has room for."""
        try:
            del self._unsent[: self.socket.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:  # whoever reads next learns that the connection is gone
            self._unsent.clear()

    def close(self) -> None:
        self.socket.close()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self._bodies[stream] = self._bodies.get(stream, b"") + payload
        elif kind == HEADERS:
            if flags & END_STREAM:
                self._end(stream, payload)
        elif kind == WINDOW_UPDATE:
            if not stream:
                self._credit += struct.unpack(">I", payload)[0]
                self._release()
        elif kind == PING and not flags & ACK:
            self._unsent += frame(PING, ACK, 0, payload)
        elif kind == SETTINGS and not flags & ACK:
            chosen = dict(struct.iter_unpack(">HI", payload))
            self._stream_credit = chosen.get(4, self._stream_credit or DEFAULT_WINDOW)
            self._unsent += frame(SETTINGS, ACK, 0, b"")
        elif kind == RST_STREAM:
            self._end(stream, b"reset %d" % struct.unpack(">I", payload)[0])

    def _end(self, stream: int, how: bytes) -> None:
        number = self._calls.pop(stream, None)
        body = self._bodies.pop(stream, b"")
        if number is not None:
            self._on_end(number, body[5:], how)

    def _lose(self) -> None:
        self.lost = True
        self._unsent.clear()
        self._held.clear()
        for stream in list(self._calls):
            self._end(stream, CONNECTION_LOST)

    def _release(self) -> None:
        """Send what waited for the server to grant more."""
        while self._held and self._held[0][0] <= self._credit:
            size, framed = self._held.popleft()
            self._credit -= size
            self._unsent += framed


def body_frames(stream: int, message: bytes) -> bytes:
    """A message with gRPC's five bytes before it, cut into DATA frames, the last of which ends our side."""
    body = b"\x00" + struct.pack(">I", len(message)) + message
    if len(body) <= DEFAULT_FRAME:
        return frame(DATA, END_STREAM, stream, body)
    parts = [body[at : at + DEFAULT_FRAME] for at in range(0, len(body), DEFAULT_FRAME)]
    return b"".join(frame(DATA, END_STREAM * (part is parts[-1]), stream, part) for part in parts)


def status(how: bytes) -> tuple[int, str]:
    """The gRPC status that a call ended with and its message; -1 and a word where it had none."""
    code = _value(how, b"grpc-status")
    if code is None:
        return -1, how.decode("ascii", "replace")
    return int(code), unquote((_value(how, b"grpc-message") or b"").decode())


def _value(block: bytes, name: bytes) -> bytes | None:
    """A field's value in a block without references: its name stands there, then the length, then the value."""
    at = block.find(bytes([len(name)]) + name)
    if at < 0:
        return None
    at += 1 + len(name)
    length = block[at]
    if length >= 0x80:
        raise ValueError(f"the server Huffman-codes {name.decode()}, which is not read here")
    at += 1
    if length == 0x7F:  # a long one: the rest of the length in groups of seven bits
        shift = 0
        while True:
            length += (block[at] & 0x7F) << shift
            shift += 7
            at += 1
            if block[at - 1] < 0x80:
                break
    return block[at : at + length]
