"""Wall time from the monotonic clock: one anchor, renewed every minute, so that a step of the wall bends no span."""

from __future__ import annotations

import time
from typing import Final

RENEW_NS: Final = 60_000_000_000

_anchor = (0, 0)


def wall_ns(perf_ns: int) -> int:
    """Unix nanoseconds of a `perf_counter_ns` reading."""
    global _anchor  # noqa: PLW0603  one clock a process, whoever asks
    wall, perf = _anchor
    if not wall or perf_ns - perf > RENEW_NS:
        wall, perf = _anchor = time.time_ns(), time.perf_counter_ns()
    return wall + perf_ns - perf
