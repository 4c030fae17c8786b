"""HTTP/2 frames as bytes: their numbers, and how the ones we send are written. RFC 9113, sections 4, 6 and 7."""

from __future__ import annotations

import struct
from typing import Final

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0x0, 0x1, 0x2, 0x3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL = 0x5, 0x6, 0x7, 0x8
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 0x9, 0xB

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 2, 3, 4
MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 5, 6

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD: Final = struct.Struct(">BHBBI")
"""A frame's first nine bytes: length (8 and 16 bits), type, flags, stream."""
UINT32: Final = struct.Struct(">I")
SETTING: Final = struct.Struct(">HI")
LARGEST_WINDOW: Final = 2**31 - 1
LAST_STREAM: Final = 2**31 - 1
"""No stream has a higher number."""
DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME: Final = 16_384
"""Bytes of payload that every peer takes, and all that we take: a larger frame holds up the others longer."""
LARGEST_FRAME: Final = 2**24 - 1
DEFAULT_TABLE: Final = 4096


def frame(kind: int, flags: int, stream: int, payload: bytes | memoryview) -> bytes:
    return HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def fields(stream: int, block: bytes, flags: int = 0) -> bytes:
    """A block of fields: one frame, or as many as it takes."""
    size = len(block)
    if size <= DEFAULT_FRAME:
        return frame(HEADERS, flags | END_HEADERS, stream, block)
    pieces = [block[at : at + DEFAULT_FRAME] for at in range(0, size, DEFAULT_FRAME)]
    between = [frame(CONTINUATION, 0, stream, piece) for piece in pieces[1:-1]]
    return b"".join(
        [frame(HEADERS, flags, stream, pieces[0]), *between, frame(CONTINUATION, END_HEADERS, stream, pieces[-1])]
    )


def settings(chosen: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join([SETTING.pack(name, value) for name, value in chosen.items()]))


def window_update(stream: int, octets: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, UINT32.pack(octets))


def reset(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, UINT32.pack(code))


def goaway(last: int, code: int, why: str = "") -> bytes:
    """The last frame of a connection: streams above `last` have not been looked at."""
    return frame(GOAWAY, 0, 0, UINT32.pack(last) + UINT32.pack(code) + why.encode())
