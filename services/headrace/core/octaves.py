"""Latencies by sixteenths of an octave: the buckets that gateways count answers in, and control adds up."""

from __future__ import annotations

from math import log2
from typing import Final

PER_OCTAVE: Final = 16
"""Buckets are 4.4 per cent wide, up to 2^32 microseconds."""
NEVER: Final = 32 * PER_OCTAVE
"""The bucket of what never came: later than any answer."""
BUCKETS: Final = NEVER + 1


def bucket(took_us: int) -> int:
    """Of an answer that took so many microseconds."""
    return min(int(log2(took_us) * PER_OCTAVE), NEVER - 1) if took_us > 1 else 0
