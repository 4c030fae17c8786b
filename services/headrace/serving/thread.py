"""The thread a model runs on, and the bounded queue in front of it: one batch at a time, in the order of arrival.

Owned by a replica. Knows nothing of what it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from headrace.errors import Overloaded

T = TypeVar("T")


@dataclass(slots=True)
class Turn:
    """Work that waits for the thread, and who waits for the work."""

    work: Callable[[], Any]
    answered: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class RunnerThread:
    """Called from one event loop. Not an executor's thread: those are joined at exit, even one that hangs."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._held = 0
        """Turns given and not over: the running one and those behind it, also those nobody waits for any more."""
        self._running_since = 0.0
        self._turns: SimpleQueue[Turn | None] = SimpleQueue()
        threading.Thread(target=self._run_for_ever, name="runner", daemon=True).start()

    @property
    def waiting(self) -> int:
        """Turns behind the one that runs. Exact on any thread."""
        return self._turns.qsize()

    @property
    def running_s(self) -> float:
        """How long the present turn has been running; 0 = idle."""
        since = self._running_since
        return time.monotonic() - since if since else 0.0

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, once it has had its turn.

        Raises: Overloaded when `bound` turns wait already; and whatever `work` raises.
        Cancellation: work that has not begun never runs; what runs is not interruptible, and its result is dropped.
        """
        if self._held > self._bound:
            raise Overloaded(f"{self._bound} batches wait already")
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[T] = loop.create_future()
        self._held += 1
        self._turns.put(Turn(work, answered, loop))
        return await answered

    def close(self) -> None:
        """End the thread after the turns it holds. Safe to call twice."""
        self._turns.put(None)

    def _run_for_ever(self) -> None:
        while (turn := self._turns.get()) is not None:
            self._run_once(turn)

    def _run_once(self, turn: Turn) -> None:
        if turn.answered.cancelled():
            self._tell(turn, self._leave)
            return
        self._running_since = time.monotonic()
        try:
            result, error = turn.work(), None
        except Exception as raised:  # noqa: BLE001  it belongs to whoever awaits the turn; the thread lives on
            result, error = None, raised
        finally:
            self._running_since = 0.0
        self._tell(turn, partial(self._settle, turn.answered, result, error))

    def _tell(self, turn: Turn, news: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: whoever waited has gone with it
            turn.loop.call_soon_threadsafe(news)

    def _settle(self, answered: asyncio.Future[Any], result: object, error: Exception | None) -> None:
        self._leave()
        if answered.done():  # its caller has gone
            return
        if error is None:
            answered.set_result(result)
        else:
            answered.set_exception(error)

    def _leave(self) -> None:
        self._held -= 1
