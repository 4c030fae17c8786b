"""A clock that stands still until a test moves it."""

from __future__ import annotations


class FakeClock:
    """Monotonic time in a test's hands."""

    def __init__(self, start_s: float = 1000.0) -> None:
        self._now_s = start_s

    def now(self) -> float:
        return self._now_s

    def now_ns(self) -> int:
        return round(self._now_s * 1e9)

    def advance(self, seconds: float) -> None:
        """Let time pass. Raises: ValueError for a negative step: this clock is monotonic too."""
        if seconds < 0:
            raise ValueError(f"a monotonic clock does not go back ({seconds} s)")
        self._now_s += seconds
