"""Wall time from the monotonic clock: one anchor, renewed every minute, so that a step of the wall bends no span."""

from __future__ import annotations

import time
from typing import Final

RENEW_NS: Final = 60_000_000_000

_anchor = (0, 0)


def offset_ns() -> int:
    """What to add to a `perf_counter_ns` reading for Unix nanoseconds. Ask once for all that must fit together."""
    global _anchor  # noqa: PLW0603  one clock a process, whoever asks
    offset, since = _anchor
    now = time.perf_counter_ns()
    if not since or now - since > RENEW_NS:
        offset, since = _anchor = time.time_ns() - now, now
    return offset
