"""Time as the core sees it: monotonic, from a `Clock`, so that tests own it. No wall clock here."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic time; the zero means nothing, only differences do."""

    def now(self) -> float:
        """Seconds."""
        ...

    def now_ns(self) -> int:
        """The same reading in nanoseconds, as records keep it."""
        ...


class MonotonicClock:
    """The machine's own clock, the one of `time.perf_counter`."""

    def now(self) -> float:
        return time.perf_counter()

    def now_ns(self) -> int:
        return time.perf_counter_ns()
