"""Answers that are remembered for a while: bounded in time, in number and in bytes. Pure; the clock is the caller's.

The laws: what is found was put under that name no longer ago than the window; nothing is held beyond the bounds.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class MemoryStatistics:
    """What a memory holds, and what it could not hold."""

    entries: int
    size: int
    """Bytes, as those who put said."""
    forgotten: int
    """Entries that went before their time, or never came in: there was no room."""


class _Entry(NamedTuple):
    value: object
    size: int
    until: float


class Memory(Generic[Value]):
    """Values by name. All stay equally long, so that they go in the order in which they came."""

    def __init__(self, window_s: float, max_entries: int, max_size: int) -> None:
        self._window_s = window_s
        self._max_entries = max_entries
        self._max_size = max_size
        self._entries: dict[Hashable, _Entry] = {}
        self._size = 0
        self._forgotten = 0

    def get(self, name: Hashable, now: float) -> Value | None:
        """What was put under this name, while it is remembered."""
        self._expire(now)
        entry = self._entries.get(name)
        return None if entry is None else entry.value  # type: ignore[return-value]

    def put(self, name: Hashable, value: Value, size: int, now: float) -> None:
        """Remember it from `now` on; `size` in bytes. The oldest make room; one that is larger than all is let go."""
        self._expire(now)
        if name in self._entries:
            self._drop(name)
        if not self._window_s:
            return
        if size > self._max_size:
            self._forgotten += 1
            return
        while len(self._entries) >= self._max_entries or self._size + size > self._max_size:
            self._drop(next(iter(self._entries)))
            self._forgotten += 1
        self._entries[name] = _Entry(value, size, now + self._window_s)
        self._size += size

    def statistics(self) -> MemoryStatistics:
        return MemoryStatistics(len(self._entries), self._size, self._forgotten)

    def _expire(self, now: float) -> None:
        while self._entries:
            oldest = next(iter(self._entries))
            if self._entries[oldest].until > now:
                return
            self._drop(oldest)

    def _drop(self, name: Hashable) -> None:
        self._size -= self._entries.pop(name).size
