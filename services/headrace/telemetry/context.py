"""W3C trace context: where a request's spans belong. On the hot path: no objects but the ids.

Source: https://www.w3.org/TR/trace-context/ (version 00).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

PACKED: Final = struct.Struct(">16sQB")
"""A context on the replica wire: trace id, span id, flags; 25 bytes."""
SAMPLED: Final = 1
HEX: Final = frozenset("0123456789abcdef")
MAX_TRACESTATE: Final = 512
"""Characters of tracestate that are carried on; a longer one is dropped whole, as the standard allows."""


class Context(NamedTuple):
    """The caller's place in its trace."""

    trace_id: bytes
    span_id: int
    sampled: bool


def read(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[Context | None, str]:
    """The context and the tracestate in a call's metadata; a tracestate counts only beside a valid traceparent."""
    parent, state = None, ""
    for key, value in metadata:
        if key == "traceparent":
            parent = parse(str(value))
        elif key == "tracestate" and isinstance(value, str) and value.isascii() and value.isprintable():
            state = f"{state},{value}" if state else value  # gRPC would refuse to send another one back
    return (parent, state if len(state) <= MAX_TRACESTATE else "") if parent else (None, "")


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


def header(trace_id: bytes, span_id: int, *, sampled: bool) -> str:
    """A `traceparent`."""
    return f"00-{trace_id.hex()}-{span_id:016x}-0{sampled:d}"


def new_trace_id() -> bytes:
    """A trace id, never zero."""
    return (random.getrandbits(127) + 1).to_bytes(16)


def new_id() -> int:
    """A span id, never zero."""
    return random.getrandbits(63) + 1


class Sampling(NamedTuple):
    """Which traces are recorded: what OTEL_TRACES_SAMPLER can say, decided without an object."""

    share: float = 1.0
    """Of the traces that begin here."""
    by_caller: bool = True
    """A caller's own flag wins over the share (`parentbased_*`)."""

    def begin(self, parent: Context | None) -> tuple[bytes, int, int, bool]:
        """(trace id, span id, parent's span id, sampled) of a new span."""
        if parent is None:
            trace_id = new_trace_id()
            return trace_id, new_id(), 0, self._chosen(trace_id)
        sampled = parent.sampled if self.by_caller else self._chosen(parent.trace_id)
        return parent.trace_id, new_id(), parent.span_id, sampled

    def _chosen(self, trace_id: bytes) -> bool:
        """By the low 64 bits of the trace id, as TraceIdRatioBased does: every service chooses the same traces."""
        return self.share >= 1 or int.from_bytes(trace_id[8:]) < self.share * 2**64


def pack(trace_id: bytes, span_id: int, *, sampled: bool) -> bytes:
    return PACKED.pack(trace_id, span_id, sampled)


def unpack(data: bytes) -> Context | None:
    """The context of a packed 25 bytes; None when there is none."""
    if len(data) != PACKED.size:
        return None
    trace_id, span_id, flags = PACKED.unpack(data)
    return Context(trace_id, span_id, bool(flags & SAMPLED))
