"""W3C trace context, as bytes: where a request's spans belong. On the hot path: no objects but the ids.

Source: https://www.w3.org/TR/trace-context/ (version 00).
"""

from __future__ import annotations

import random
import struct
from typing import NamedTuple

PACKED = struct.Struct(">16sQB")
"""A context on the replica wire: trace id, span id, flags; 25 bytes."""
SAMPLED = 1
HEX = frozenset("0123456789abcdef")


class Context(NamedTuple):
    """The caller's place in its trace."""

    trace_id: bytes
    span_id: int
    sampled: bool


def parse(traceparent: str) -> Context | None:
    """The context in a `traceparent` header, or None where it is not valid: a new trace starts then."""
    if len(traceparent) < 55 or traceparent[2] != "-" or traceparent[35] != "-" or traceparent[52] != "-":
        return None
    version = traceparent[:2]
    if version == "ff" or (version == "00" and len(traceparent) != 55):
        return None
    if not HEX.issuperset(traceparent[:2] + traceparent[3:35] + traceparent[36:52] + traceparent[53:55]):
        return None
    trace_id, span_id = bytes.fromhex(traceparent[3:35]), int(traceparent[36:52], 16)
    if not any(trace_id) or not span_id:
        return None
    return Context(trace_id, span_id, bool(int(traceparent[53:55], 16) & SAMPLED))


def begin(parent: Context | None, share: float) -> tuple[bytes, int, int, bool]:
    """(trace id, span id, parent's span id, sampled) of a new span; the caller's flag wins over `share`."""
    span_id = random.getrandbits(63) + 1
    if parent is not None:
        return parent.trace_id, span_id, parent.span_id, parent.sampled
    trace = random.getrandbits(127) + 1
    return trace.to_bytes(16), span_id, 0, share >= 1 or (trace & 0xFFFFFFFFFFFFFFFF) < share * 2**64


def pack(trace_id: bytes, span_id: int, *, sampled: bool) -> bytes:
    return PACKED.pack(trace_id, span_id, sampled)


def unpack(data: bytes) -> Context | None:
    """The context of a packed 25 bytes; None when there is none."""
    if len(data) != PACKED.size:
        return None
    trace_id, span_id, flags = PACKED.unpack(data)
    return Context(trace_id, span_id, bool(flags & SAMPLED))
