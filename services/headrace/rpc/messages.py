"""What gRPC writes into HTTP/2: messages behind five bytes, metadata, deadlines and statuses.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

import grpc

from headrace.rpc import frames
from headrace.rpc.fields import Fields, literal

Metadata = Sequence[tuple[str, str | bytes]]

MAX_MESSAGE: Final = 64 << 20
"""Bytes of one message, expanded."""
MAX_METADATA: Final = 16_384
"""Bytes of a call's fields: names, values and 32 a field."""
MAX_SENTENCE: Final = 1024
"""Bytes of a status message: three times as many on the wire at worst, and a client takes 8 KiB of metadata."""
MAX_TIMEOUT_S: Final = 1e9
UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
ZLIB_BITS: Final = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
STATUS: Final = {code.value[0]: code for code in grpc.StatusCode}
"""By number."""
WRITTEN_STATUS: Final = {b"%d" % number: code for number, code in STATUS.items()}
PRINTABLE: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")

ANSWER: Final = (
    b"\x88"  # :status 200
    + literal(b"content-type", b"application/grpc")
    + literal(b"grpc-accept-encoding", b"identity,deflate,gzip")
)
"""The fields that open every answer."""
GOOD: Final = literal(b"grpc-status", b"0")


class Failure(Exception):
    """A call ends here, with this status and trailing metadata. `bound` = which bound of its server it ran into."""

    def __init__(self, code: grpc.StatusCode, sentence: str, metadata: Metadata = (), bound: str = "") -> None:
        super().__init__(sentence)
        self.code = code
        self.metadata = metadata
        self.bound = bound


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call's first fields say."""

    path: str
    """`/package.Service/Method`; empty = this is no gRPC."""
    metadata: Metadata
    """The caller's own, `-bin` values as bytes."""
    timeout_s: float | None
    """From now on; None = the caller waits for ever."""
    encoding: bytes
    """How messages with the compressed flag are compressed."""
    size: int
    """As MAX_METADATA counts."""
    takes: frozenset[bytes] = frozenset()
    """How answers may be compressed."""


def asked(fields: Fields) -> Asked:
    """Raises: Failure when a field is not what gRPC sends."""
    path, kind, method, encoding = b"", b"", b"", b"identity"
    timeout_s: float | None = None
    takes: frozenset[bytes] = frozenset()
    metadata: list[tuple[str, str | bytes]] = []
    size = 32 * len(fields)
    for name, value in fields:
        size += len(name) + len(value)
        if name[:1] == b":":
            if name == b":path":
                path = value
            elif name == b":method":
                method = value
        elif name == b"content-type":
            kind = value
        elif name == b"grpc-timeout":
            timeout_s = seconds(value)
        elif name == b"grpc-encoding":
            encoding = value
        elif name == b"grpc-accept-encoding":
            takes = frozenset(one.strip() for one in value.split(b","))
        elif name != b"te":  # codespell:ignore te
            metadata += _entries(name, value)
    is_grpc = method == b"POST" and kind[:16] == b"application/grpc" and kind[16:17] in (b"", b"+", b";")
    return Asked(path.decode("latin-1") if is_grpc else "", tuple(metadata), timeout_s, encoding, size, takes)


def _entries(name: bytes, value: bytes) -> list[tuple[str, str | bytes]]:
    """One, or several of a binary name, whose values may come joined by commas."""
    text = name.decode("latin-1")
    if not name.endswith(b"-bin"):
        return [(text, value.decode("latin-1"))]
    try:
        return [(text, base64.b64decode(one + b"=" * (-len(one) % 4), validate=True)) for one in value.split(b",")]
    except binascii.Error:
        raise Failure(grpc.StatusCode.INTERNAL, f"metadata '{text}' is not base64") from None


def seconds(timeout: bytes) -> float:
    """A `grpc-timeout`: at most eight digits and a unit. Raises: Failure."""
    digits, unit = timeout[:-1], UNITS.get(timeout[-1:])
    if unit is None or not digits.isdigit() or len(digits) > 8:
        raise Failure(grpc.StatusCode.INTERNAL, "grpc-timeout is not a number and a unit")
    return int(digits) * unit


def timeout(seconds_left: float) -> bytes:
    """A `grpc-timeout` of so many seconds, in the finest unit that has room for them."""
    micros = max(1, round(min(seconds_left, MAX_TIMEOUT_S) * 1e6))
    if micros < 10**8:
        return b"%du" % micros
    return b"%dm" % (micros // 1000) if micros < 10**11 else b"%dS" % min(micros // 10**6, 10**8 - 1)


def framed(message: bytes) -> bytes:
    return b"\x00" + frames.UINT32.pack(len(message)) + message


class Reader:
    """The messages of one direction of a stream, out of pieces of any size.

    They are kept as they came, compressed or not, until somebody asks for the next: what waits here is what was sent.
    """

    __slots__ = ("_encoding", "_kept", "_limit")

    def __init__(self, limit: int, encoding: bytes = b"identity") -> None:
        self._limit = limit
        self._encoding = encoding
        self._kept = bytearray()

    def __len__(self) -> int:
        return len(self._kept)

    def feed(self, data: bytes) -> None:
        self._kept += data

    def ready(self) -> bool:
        """The next message is whole. Raises: Failure as soon as one is known to be too large."""
        if len(self._kept) < 5:
            return False
        size = frames.UINT32.unpack_from(self._kept, 1)[0]
        if size > self._limit:
            raise self._too_large(size)
        return len(self._kept) >= 5 + int(size)

    def next(self) -> bytes | None:
        """The next message, once it is whole. Raises: Failure for one too large, or that cannot be read."""
        if not self.ready():
            return None
        flag, end = self._kept[0], 5 + frames.UINT32.unpack_from(self._kept, 1)[0]
        with memoryview(self._kept) as kept:
            message = bytes(kept[5:end])
        del self._kept[:end]
        return self._expanded(flag, message) if flag else message

    def _expanded(self, flag: int, message: bytes) -> bytes:
        bits = ZLIB_BITS.get(self._encoding)
        if flag != 1 or self._encoding == b"identity":
            raise Failure(grpc.StatusCode.INTERNAL, "a message says that it is compressed, and not how")
        if bits is None:
            encoding = self._encoding.decode("latin-1")
            raise Failure(grpc.StatusCode.UNIMPLEMENTED, f"messages compressed by '{encoding}' are not read here")
        inflating = zlib.decompressobj(bits)
        try:
            expanded = inflating.decompress(message, self._limit + 1)
        except zlib.error:
            raise Failure(grpc.StatusCode.INTERNAL, "a compressed message cannot be expanded") from None
        if len(expanded) > self._limit:
            raise self._too_large(len(expanded))
        if not inflating.eof:
            raise Failure(grpc.StatusCode.INTERNAL, "a compressed message cannot be expanded")
        return expanded

    def _too_large(self, size: int) -> Failure:
        sentence = f"Received message larger than max ({size} vs. {self._limit})"
        return Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, sentence, bound="message")


def trailers(code: grpc.StatusCode, details: str, metadata: Iterable[tuple[str, str | bytes]]) -> bytes:
    """The fields that end an answer."""
    block = GOOD if code is grpc.StatusCode.OK else literal(b"grpc-status", b"%d" % code.value[0])
    if details:
        block += literal(b"grpc-message", quote(details, safe=PRINTABLE, errors="replace").encode())
    for name, value in metadata:
        block += entry(name, value)
    return block


def short(sentence: str) -> str:
    """As much of a status message as its reader surely takes: it may quote what a caller chose."""
    return sentence[:MAX_SENTENCE].encode()[:MAX_SENTENCE].decode(errors="ignore")


def entry(name: str, value: str | bytes) -> bytes:
    """One of a call's own fields. Raises: ValueError for a value that is not printable ASCII under a text name."""
    if name.endswith("-bin"):
        data = value if isinstance(value, bytes) else value.encode()
        return literal(name.encode(), base64.b64encode(data).rstrip(b"="))
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    if not (text.isascii() and text.isprintable()):
        raise ValueError(f"metadata '{name}' is not printable")
    return literal(name.encode(), text.encode())


def status(fields: Fields) -> tuple[grpc.StatusCode, str]:
    """How an answer ended. Without a status of gRPC's, UNKNOWN and what HTTP says."""
    found = dict(fields)
    code = found.get(b"grpc-status")
    if code is None:
        return grpc.StatusCode.UNKNOWN, f"HTTP status {found.get(b':status', b'?').decode('latin-1')}"
    known = WRITTEN_STATUS.get(code, grpc.StatusCode.UNKNOWN)
    return known, unquote(found.get(b"grpc-message", b"").decode("latin-1"))
