"""The thread a model runs on, and the bounded queue in front of it: one batch at a time, in the order of arrival.

What nobody waits for (a shadow's batch) is spare: it runs when no other work is there, and has a bound of its own.
Owned by a replica. Knows nothing of what it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from headrace.errors import Overloaded

T = TypeVar("T")

MAX_SPARE: Final = 4
"""Spare turns that may wait: their senders have something else to do with their time."""


@dataclass(slots=True)
class Turn:
    """Work that waits for the thread, and who waits for the work."""

    work: Callable[[], Any]
    answered: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    spare: bool = False


class Token:
    """In the line it stands for a spare turn: it lets everybody else go first."""


SPARE: Final = Token()


class RunnerThread:
    """Called from one event loop. Not an executor's thread: those are joined at exit, even one that hangs."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._held = 0
        """Turns given and not over: the running one and those behind it, also those nobody waits for any more."""
        self._held_spare = 0
        """The same of spare ones."""
        self._running_since = 0.0
        self._turns: SimpleQueue[Turn | Token | None] = SimpleQueue()
        self._spare: deque[Turn] = deque()
        """One for each token in the line."""
        threading.Thread(target=self._run_for_ever, name="runner", daemon=True).start()

    @property
    def waiting(self) -> int:
        """Turns behind the one that runs, spare ones not counted. On any thread; off by one while a spare one comes."""
        return max(0, self._turns.qsize() - len(self._spare))

    @property
    def running_s(self) -> float:
        """How long the present turn has been running; 0 = idle."""
        since = self._running_since
        return time.monotonic() - since if since else 0.0

    async def run(self, work: Callable[[], T], *, spare: bool = False) -> T:
        """What `work` returns, once it has had its turn.

        Raises: Overloaded when `bound` turns wait already, or too many spare ones; and whatever `work` raises.
        Cancellation: work that has not begun never runs; what runs is not interruptible, and its result is dropped.
        """
        held, bound = (self._held_spare, MAX_SPARE) if spare else (self._held, self._bound)
        if held > bound:
            raise Overloaded(f"{bound} batches wait already")
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[T] = loop.create_future()
        turn = Turn(work, answered, loop, spare)
        self._count(turn, 1)
        if spare:
            self._spare.append(turn)
        self._turns.put(SPARE if spare else turn)
        return await answered

    def close(self) -> None:
        """End the thread after the turns it holds. Safe to call twice."""
        self._turns.put(None)

    def _run_for_ever(self) -> None:
        while (turn := self._turns.get()) is not None:
            if isinstance(turn, Turn):
                self._run_once(turn)
            else:
                self._run_spare()

    def _run_spare(self) -> None:
        """Run the one whose token has come up, unless somebody waits behind it: then it goes to the end of the line."""
        turn = self._spare.popleft()
        if self.waiting:
            self._spare.append(turn)
            self._turns.put(SPARE)
        else:
            self._run_once(turn)

    def _run_once(self, turn: Turn) -> None:
        if turn.answered.cancelled():
            self._tell(turn, partial(self._count, turn, -1))
            return
        self._running_since = time.monotonic()
        try:
            result, error = turn.work(), None
        except Exception as raised:  # noqa: BLE001  it belongs to whoever awaits the turn; the thread lives on
            result, error = None, raised
        finally:
            self._running_since = 0.0
        self._tell(turn, partial(self._settle, turn, result, error))

    def _tell(self, turn: Turn, news: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: whoever waited has gone with it
            turn.loop.call_soon_threadsafe(news)

    def _settle(self, turn: Turn, result: object, error: Exception | None) -> None:
        self._count(turn, -1)
        if turn.answered.done():  # its caller has gone
            return
        if error is None:
            turn.answered.set_result(result)
        else:
            turn.answered.set_exception(error)

    def _count(self, turn: Turn, by: int) -> None:
        if turn.spare:
            self._held_spare += by
        else:
            self._held += by
