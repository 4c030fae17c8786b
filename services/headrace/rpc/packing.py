"""Answers compressed, for callers who take them so: gzip and deflate, as gRPC names them.

Source: https://github.com/grpc/grpc/blob/master/doc/compression.md.
"""

from __future__ import annotations

import zlib
from typing import Final, Literal

from headrace.rpc.frames import UINT32
from headrace.rpc.messages import ZLIB_BITS, Asked, framed

Compression = Literal["none", "asked", "gzip"]

SMALLEST: Final = 128
"""Bytes of a message that is worth a try."""
LEVEL: Final = 1
"""The event loop waits meanwhile; what a higher level saves of answers is little."""


def encoding_of(compression: Compression, said: Asked) -> bytes:
    """How the answers of a call are compressed; empty = not at all."""
    chosen = b"gzip" if compression == "gzip" else said.encoding
    return chosen if chosen in ZLIB_BITS and chosen in said.takes else b""


def packed(message: bytes, encoding: bytes) -> bytes:
    """A message behind its five bytes: compressed, or as it is where that is no longer."""
    if len(message) < SMALLEST:
        return framed(message)
    deflating = zlib.compressobj(LEVEL, zlib.DEFLATED, ZLIB_BITS[encoding])
    short = deflating.compress(message) + deflating.flush()
    return b"\x01" + UINT32.pack(len(short)) + short if len(short) < len(message) else framed(message)
