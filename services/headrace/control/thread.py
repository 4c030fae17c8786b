"""The ledger's one thread: an act at a time, and those that decide who answers before whatever else waits.

Knows no ledger. What has begun is never interrupted, so whoever shares the thread does its work in small pieces.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

Answer = TypeVar("Answer")


class Act(NamedTuple):
    """Something to be done, and its answer for who waits."""

    do: Callable[[], Any]
    done: Future[Any]


class LedgerThread:
    """`ask` from the event loop; `close` it."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "ledger")
        self._urgent: deque[Act] = deque()
        self._others: deque[Act] = deque()

    def ask(self, do: Callable[..., Answer], *values: Any, urgent: bool = False) -> asyncio.Future[Answer]:
        """Do it behind its like. Cancellation: it is left out, unless it has begun."""
        act = Act(partial(do, *values), Future())
        (self._urgent if urgent else self._others).append(act)
        self._executor.submit(self._do_next)  # as many turns as acts, whichever act a turn takes
        return asyncio.wrap_future(act.done)

    @property
    def waiting(self) -> int:
        """Acts that have not begun. From any thread."""
        return len(self._urgent) + len(self._others)

    def close(self) -> None:
        """Finish what waits. Blocks."""
        self._executor.shutdown()

    def _do_next(self) -> None:
        act = (self._urgent or self._others).popleft()
        if not act.done.set_running_or_notify_cancel():
            return
        try:
            act.done.set_result(act.do())
        except BaseException as error:  # noqa: BLE001  it is the answer of who asked
            act.done.set_exception(error)
