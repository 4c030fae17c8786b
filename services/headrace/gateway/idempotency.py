"""Retries that get the same answer: by a key that the caller makes up, computed at most once at a time.

One a gateway, asked by the servicers for requests that carry a key, and only for those. Knows no model and no service:
an answer is a message, remembered as its bytes. Failures are not remembered, and neither is what somebody else than the
version in charge has answered. docs/decisions/0022 says why it is like this.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

from google.protobuf.message import Message

from headrace.config import GatewaySettings
from headrace.core.clock import Clock
from headrace.core.records import Detour, RpcRecord
from headrace.core.remembering import Memory, MemoryStatistics
from headrace.errors import BrokenContract, DeadlinePassed, HeadraceError, InvalidInference

COMPUTED, JOINED, REPLAYED, CONFLICT = "computed", "joined", "replayed", "conflict"
EARLY_S: Final = 0.001
"""Before its deadline: the caller hears why from us, not from its own clock."""
ENTRY_BYTES: Final = 500
"""What an entry takes beside its answer and its names: 334 by tracemalloc, and what strings and a table take."""

Answer = TypeVar("Answer", bound=Message)


class Scope(NamedTuple):
    """Where a key means something: for one caller, and one model as it was asked for."""

    caller: str
    model: str
    version: str
    """As asked for: empty = whichever the policy names."""
    key: str


class Question(NamedTuple):
    """One request with a key."""

    scope: Scope
    digest: bytes
    """Of all that its answer depends on."""
    deadline: float
    record: RpcRecord


class Kept(NamedTuple):
    """An answer for whoever asks the same."""

    digest: bytes
    data: bytes
    original: tuple[bytes, int]
    """Trace and span of the request it was computed for."""
    detour: Detour | None = None
    """Of that request, where somebody else has answered it: it is not remembered then."""


@dataclass(slots=True, eq=False)
class Running:
    """An answer that is being computed, by a task of its own: it outlives the first who asked, if others wait."""

    question: Question
    """The first who asked."""
    task: asyncio.Task[Any]
    waiters: int = 0
    kept: Kept | None = None


class Repeats:
    """What was answered lately, and what is being computed."""

    def __init__(self, settings: GatewaySettings, clock: Clock) -> None:
        window_s, entries = settings.idempotency_window_s, settings.idempotency_max_entries
        self._memory: Memory[Kept] = Memory(window_s, entries, settings.idempotency_max_bytes)
        self._running: dict[Scope, Running] = {}
        self._clock = clock

    def statistics(self) -> MemoryStatistics:
        return self._memory.statistics()

    @property
    def running(self) -> int:
        """Answers that are being computed."""
        return len(self._running)

    async def answer(
        self, question: Question, kind: type[Answer], compute: Callable[[], Awaitable[Answer]]
    ) -> tuple[Answer, bool]:
        """The answer, and whether it was computed for another request, lately or just now.

        Raises: InvalidInference when the key came with something else before; DeadlinePassed; what `compute` raises,
        for this request or for the one that it waits for.
        Cancellation: what is computed goes on while anybody waits for it.
        """
        while True:
            kept = self._memory.get(question.scope, self._clock.now())
            if kept is not None:
                return self._given(kept, question, kind, REPLAYED), True
            running = self._running.get(question.scope)
            if running is None:
                return await self._lead(question, compute), False
            kept = await self._join(question, running)
            if kept is not None:
                return self._given(kept, question, kind, JOINED), True

    # The first who asks ---------------------------------------------------------------------------------------------

    async def _lead(self, question: Question, compute: Callable[[], Awaitable[Answer]]) -> Answer:
        question.record.on_detour().idempotency = COMPUTED
        running = Running(question, asyncio.get_running_loop().create_task(_as_coroutine(compute)))
        self._running[question.scope] = running
        running.task.add_done_callback(lambda _: self._over(running))
        try:
            await self._wait(running, None)
        except asyncio.CancelledError:
            # Its record rides with the answer: it must not be closed, nor its permit given back, before that is over.
            while not running.task.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait((running.task,))
            raise
        answer: Answer = running.task.result()
        return answer

    def _over(self, running: Running) -> None:
        """Keep what came. A failure is nobody's but theirs who wait: it is looked at, and not remembered."""
        self._forget(running)
        if not running.task.cancelled() and running.task.exception() is None:
            self._keep(running)

    def _keep(self, running: Running) -> Kept:
        """What came, as others get it: remembered, where the version in charge has answered."""
        if running.kept is None:
            question, data = running.question, running.task.result().SerializeToString()
            record, detour = question.record, question.record.detour
            instead = detour if detour is not None and detour.reason else None
            running.kept = Kept(question.digest, data, (record.trace_id, record.span_id), instead)
            if instead is None:
                size = ENTRY_BYTES + len(data) + sum(map(len, question.scope))
                self._memory.put(question.scope, running.kept, size, self._clock.now())
        return running.kept

    # Those who come while it runs -----------------------------------------------------------------------------------

    async def _join(self, question: Question, running: Running) -> Kept | None:
        """What the first one gets. None = its own time was over, or it has left: it is this one's turn.

        Raises: DeadlinePassed; whatever else the first one got.
        """
        _assert_same(running.question.digest, question)
        question.record.on_detour().idempotency = JOINED
        left_s = question.deadline - EARLY_S - self._clock.now()
        if left_s > 0:
            await self._wait(running, left_s)
        if not running.task.done():
            raise DeadlinePassed("Request timeout expired")
        error = None if running.task.cancelled() else running.task.exception()
        if running.task.cancelled() or isinstance(error, DeadlinePassed):
            self._forget(running)
            return None
        if error is None:
            return self._keep(running)
        if isinstance(error, HeadraceError):
            raise type(error)(str(error))  # one object raised in many callers would collect their frames
        raise BrokenContract("internal error")

    async def _wait(self, running: Running, timeout_s: float | None) -> None:
        """Until it is over, or so long. The last of those who wait takes the computation along when it leaves."""
        running.waiters += 1
        try:
            await asyncio.wait((running.task,), timeout=timeout_s)
        finally:
            running.waiters -= 1
            if not running.waiters and not running.task.done():
                self._forget(running)
                running.task.cancel()

    def _forget(self, running: Running) -> None:
        """It is not to be waited for any more."""
        if self._running.get(running.question.scope) is running:
            del self._running[running.question.scope]

    def _given(self, kept: Kept, question: Question, kind: type[Answer], result: str) -> Answer:
        """Another request's answer, and in the record that it is one. Raises: InvalidInference."""
        _assert_same(kept.digest, question)
        detour = question.record.on_detour()
        detour.idempotency, detour.original = result, kept.original
        if kept.detour is not None:
            detour.reason, detour.by, detour.error = kept.detour.reason, kept.detour.by, kept.detour.error
        return kind.FromString(kept.data)


def _assert_same(digest: bytes, question: Question) -> None:
    """Raises: InvalidInference when the key was used for something else. It does not quote the key: it may be an id."""
    if digest != question.digest:
        question.record.on_detour().idempotency = CONFLICT
        raise InvalidInference("this idempotency key came with other inputs before")


async def _as_coroutine(compute: Callable[[], Awaitable[Answer]]) -> Answer:
    return await compute()
