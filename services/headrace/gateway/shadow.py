"""Shadows: what one version has answered, another one is asked as well, for nobody but the comparison.

What has been answered is put on a list; from there, when its caller has long been told, it goes into a bounded buffer.
Copies are made when it leaves that, and no payment waits. Nothing in here is awaited by a request, and nothing it does
may raise into one. docs/decisions/0014 says why it is like this.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from headrace.core import demand
from headrace.core.batch import Batch
from headrace.core.clock import Clock
from headrace.core.cost import CostModel
from headrace.core.demand import Arrivals, Demand
from headrace.core.inference import Answer, Inference
from headrace.core.policy import Budget
from headrace.core.records import BatchRecord, RpcRecord
from headrace.core.routing import Shadow
from headrace.core.tensors import ModelSpec
from headrace.errors import BrokenContract, DeadlinePassed, HeadraceError, NotServing, Overloaded
from headrace.gateway.blame import is_evidence
from headrace.gateway.breaker import Breaker, Came
from headrace.gateway.callers import Callers
from headrace.gateway.copies import Copy, Original, batch_of, copy_of, fail, round_trip_s, settle
from headrace.gateway.lane import Lane
from headrace.gateway.link import Flight, Sender
from headrace.gateway.pairs import Notes, Reader, Side
from headrace.gateway.pressure import Pressure
from headrace.gateway.shadow_dispatch import ShadowDispatcher
from headrace.gateway.shedding import Shedding
from headrace.tasks import end

log = logging.getLogger(__name__)

BATCH_ROWS: Final = 32
"""Copies that travel together at most: a shadow batch that has begun is in front of whatever comes next."""
GATHER_S: Final = 0.25
"""How long a copy waits for company: nobody waits for it, and each batch has its price, whatever is in it."""
GATHER_SHARE: Final = 0.25
"""Of a copy's time at most."""
LOOK_S: Final = 0.02
"""How soon to look at what was answered, and whether those who gather are a full batch: a payment has no time to."""
HOLD_S: Final = 0.005
"""How soon to look again whether payments still wait."""
SHARED_S: Final = 0.003
"""Where payments are answered by the same replicas, a shadow batch is cut to what one may be held up by it."""
SHARED_STRETCH: Final = 1.5
"""Or to so many times what its first copy would take alone: where a forward's cost is fixed, more of them hold up more
payments than longer ones do."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The gateway that a lane is in."""

    sender: Sender
    clock: Clock
    pressure: Pressure
    on_batch: Callable[[BatchRecord], None]


class ShadowLane:
    """The copies of one comparison that go to one version."""

    def __init__(self, shadow: Shadow, lane: Lane, around: Surroundings, shedding: Shedding, notes: Notes) -> None:
        self.shadow = shadow
        self.lane = lane
        """The one that decides for that version, where it does: its spec is ours, its replicas too."""
        self.notes = notes
        self.noise: ShadowLane | None = None
        """Asks the incumbent again about a share of the pairs."""
        self.held = 0
        """Rows that wait or are at a replica."""
        self._around = around
        self._shedding = shedding
        self._clock = around.clock
        self._cost = CostModel()
        self._arrivals = Arrivals(self._clock.now())
        self._answered: list[Original] = []
        self._hindrance = ""
        """As of the last look; out of date where no other one is due."""
        self._spared_rows = self._spared_tokens = 0
        """Let go since then, for that."""
        self._callers = self._counted()
        self._reader = Reader(lane.spec, shadow.output)
        self._original_reader = self._reader
        self._waiting: deque[Original] = deque()
        self._gather_s = min(GATHER_S, GATHER_SHARE * shadow.timeout_s)
        self._running: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._breaker = Breaker(self._clock)
        self._closed = False
        self._complained = False
        self.dispatcher = ShadowDispatcher(
            around.sender, around.clock, self._cost, around.pressure, self._look_soon, self._look_soon
        )
        self.dispatcher.deciding = lane.dispatcher
        self.dispatcher.patience_s = shadow.timeout_s
        self._budget = Budget(min(BATCH_ROWS, self.spec.max_rows), self.spec.max_tokens)

    @property
    def spec(self) -> ModelSpec:
        return self.lane.spec

    @property
    def ready(self) -> bool:
        return self.dispatcher.ready

    # In -------------------------------------------------------------------------------------------------------------

    def offer(self, inference: Inference, record: RpcRecord, outcome: Answer | HeadraceError) -> None:
        """Count a request that is over, and put it on the list if the draw allows it."""
        if self._closed:
            return
        try:
            now = self._clock.now()
            if self._callers is not None:
                self._callers.asked(outcome, now - record.queued_ns / 1e9)
            if random.random() < self.shadow.share and is_evidence(outcome, record):
                if self._alarm is None:
                    self._look_in(LOOK_S)
                elif self._hindrance:  # let go at once: what nobody takes need not fill memory until the next look
                    self._spared_rows += inference.rows
                    self._spared_tokens += inference.tokens
                    return
                self._answered.append(Original(inference, record, outcome, now, self.held))
        except Exception as error:  # noqa: BLE001  the payment path's guard: what goes wrong here is no caller's concern
            self._complain(error)

    def refused(self, refusal: HeadraceError) -> None:
        """Count a request that was over at the door."""
        if self._callers is not None:
            self._callers.refused(refusal)

    def _counted(self) -> Callers | None:
        """Whose answers are copied here. The noise floor's copies are of the same callers, counted already."""
        if self.shadow.noise:
            return None
        return self.notes.challengers if self.spec.version == self.shadow.incumbent else self.notes.incumbents

    def _sampled(self, rows: int, tokens: int) -> None:
        self.notes.sampled(rows)
        self._arrivals.add(rows, tokens)

    def _note_spared(self) -> None:
        """Those that were let go since the last look, and what it had found in their way."""
        rows, tokens = self._spared_rows, self._spared_tokens
        self._spared_rows = self._spared_tokens = 0
        if rows:
            self._sampled(rows, tokens)
            self.notes.drop(self._hindrance, rows)

    def _take_all(self, hindrance: str) -> None:
        """Have what is on the list wait, or count why not. Nothing is made of it before it leaves: much never does."""
        answered, self._answered = self._answered, []
        for original in answered:
            rows = original.inference.rows
            self._sampled(rows, original.inference.tokens)
            if cause := hindrance or self._without_room(rows):
                self.notes.drop(cause, rows)
            else:
                self.held += rows
                self._waiting.append(original)

    def _hindered(self) -> str:
        """Why no copy can be taken, or leave, at this moment, if anything."""
        if not self.ready:
            return "unready"
        return "load" if self._shedding.pauses() else self._breaker.hindrance

    def _without_room(self, rows: int) -> str:
        """Whether there is none for so many rows. The oldest that wait have made room for them."""
        while rows <= self.shadow.max_rows < self.held + rows and self._waiting:
            self._drop(self._waiting.popleft(), "buffer")
        return "buffer" if self.held + rows > self.shadow.max_rows else ""

    def _complain(self, error: Exception) -> None:
        """Once: what goes wrong for one copy mostly does for all."""
        if not self._complained:
            self._complained = True
            log.error("a copy was lost to an error of ours; the next ones are only counted", exc_info=error)

    def _drop(self, original: Original, cause: str) -> None:
        self.held -= original.inference.rows
        self.notes.drop(cause, original.inference.rows)

    # Out ------------------------------------------------------------------------------------------------------------

    def _look_in(self, seconds: float) -> None:
        self._alarm = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look_soon(self) -> None:
        """A replica is free, or there is another one."""
        if self._waiting:
            if self._alarm is not None:
                self._alarm.cancel()
            self._look_in(0.0)

    def _look(self) -> None:
        """Take what was answered, send what waits if anybody may take it, drop what has waited too long."""
        self._alarm = None
        hindrance, now = self._hindered(), self._clock.now()
        self._note_spared()
        self._hindrance = hindrance
        self._take_all(hindrance)
        while self._waiting and self._waiting[0].at + self.shadow.timeout_s <= now:
            self._drop(self._waiting.popleft(), "buffer")
        while self._waiting and not hindrance:
            due_s = self._waiting[0].at + self._gather_s - now
            if due_s > 0 and self._has_room_for_more():
                self._look_in(min(due_s, LOOK_S))
                return
            if self.dispatcher.room() is None:
                break
            self._launch()
        if self._waiting:  # for replicas of our own it is told when one is free
            self._look_in(HOLD_S if self.lane.answers and not hindrance else LOOK_S)

    def _launch(self) -> None:
        copies = [copy for original in self._pop() if (copy := self._copy(original)) is not None]
        if not copies:
            return
        record = batch_of(copies, self.spec, self._clock.now_ns())
        batch = Batch(self.spec, [copy.rider for copy in copies], record, self._demand())
        flight = self.dispatcher.book(batch)
        task = asyncio.get_running_loop().create_task(self._run(copies, batch, flight), name=f"shadow-{batch.rows}")
        self._running.add(task)
        task.add_done_callback(partial(self._over, copies, batch))

    def _pop(self) -> list[Original]:
        return [self._waiting.popleft() for _ in range(self._fitting())]

    def _copy(self, original: Original) -> Copy | None:
        """What the other version is asked. None: nothing can be made of it, which is counted."""
        cause = "inputs"
        try:
            copy = copy_of(original, self.spec, self.shadow.timeout_s)
            if copy is not None:
                self.notes.batch_of(original.record, challenger=original.record.version != self.shadow.incumbent)
                return copy
        except Exception as error:  # noqa: BLE001  told below; the row must be accounted for
            cause = "error"
            self._complain(error)
        self._drop(original, cause)
        return None

    def _has_room_for_more(self) -> bool:
        """Of the next batch and of the buffer, which gathering must not fill."""
        return self._fitting() == len(self._waiting) and 2 * self.held < self.shadow.max_rows

    def _fitting(self) -> int:
        """How many of those that wait, from the first on, may travel together."""
        rows = tokens = 0
        for place, original in enumerate(self._waiting):
            inference = original.inference
            rows, tokens = rows + inference.rows, tokens + inference.tokens
            if place and (rows > self._budget.rows or tokens > self._budget.tokens or self._too_long(tokens)):
                return place
        return len(self._waiting)

    def _demand(self) -> Demand:
        """Copies ask for replicas where nobody else does: steadily, as no one waits for them.

        A version that answers payments is scaled by those alone: copies take what its replicas have left over.
        """
        if self.lane.answers:
            return demand.NONE
        work = demand.work(self._arrivals, self._budget, self._cost, self._clock.now())
        return Demand(0.0, math.inf, work, self.dispatcher.replicas)

    def _too_long(self, tokens: int) -> bool:
        """For replicas that payments share with it: those of a version that answers some."""
        if not self.lane.answers:
            return False
        cost = self.lane.cost  # it knows them better: it sends all sizes
        alone_s = cost.predict_s(self._waiting[0].inference.tokens)
        return cost.predict_s(tokens) > max(SHARED_S, SHARED_STRETCH * alone_s)

    async def _run(self, copies: list[Copy], batch: Batch, flight: Flight) -> None:
        """One batch there and back. Its copies are settled, whatever comes of it, and when their time is over."""
        loop = asyncio.get_running_loop()
        latest_s = max(copy.rider.inference.deadline for copy in copies) - self._clock.now()
        over = loop.call_later(max(0.0, latest_s), fail, copies, DeadlinePassed("no answer in time"))
        try:
            answer = await self.dispatcher.dispatch(batch, flight, again=False)
            if batch.riders:
                settle(batch, answer)
                self.dispatcher.learn(flight, batch.tokens, round_trip_s(batch.record, answer.stamps))
        except HeadraceError as error:
            fail(copies, error)
        except Exception:  # the shadow's outer guard: nothing of it may reach a payment
            log.exception("a shadow batch was lost to an error of ours")
            fail(copies, BrokenContract("internal error"))
        finally:
            over.cancel()

    def _over(self, copies: list[Copy], batch: Batch, task: asyncio.Task[None]) -> None:
        """The task is done, perhaps cancelled before it began."""
        self._running.discard(task)
        fail(copies, NotServing("the comparison is over"))
        self._tell(copies, batch)

    def _tell(self, copies: list[Copy], batch: Batch) -> None:
        """Note the pairs, and let the batch's record go."""
        now_ns = batch.record.settled_ns = self._clock.now_ns()
        came = set()
        for copy in copies:
            self.held -= copy.rider.inference.rows
            try:
                came.add(self._note(copy, now_ns))
            except Exception as error:  # noqa: BLE001  told below; the other copies must be accounted for
                self.notes.drop("error", copy.rider.inference.rows)
                self._complain(error)
        self._breaker.learn(came)
        self.notes.batch_of(copies[0].rider.record, challenger=self.spec.version != self.shadow.incumbent)
        self._around.on_batch(batch.record)

    def _note(self, copy: Copy, now_ns: int) -> Came:
        record, outcome = copy.rider.record, copy.rider.outcome
        record.settled_ns = record.end_ns = now_ns
        assert outcome is not None, "This is a bug."
        if isinstance(outcome, HeadraceError):
            record.reason = record.masked = type(outcome).__name__
        if isinstance(outcome, NotServing):
            self.notes.drop("stopped", copy.rider.inference.rows)
            return Came.NOTHING
        if isinstance(outcome, Overloaded):  # other gateways' copies were there first
            self.notes.drop("load", copy.rider.inference.rows)
            return Came.REFUSED
        answered, asked = self._answered_side(copy), self._reader.side(outcome, record, now_ns)
        self.notes.pair(copy.rider.inference, record.trace_id, answered, asked)
        if self.noise is not None:
            self.noise.offer(copy.original.inference, copy.original.record, copy.original.outcome)
        if not asked.error:
            return Came.ANSWERED
        return Came.NOTHING if answered.error else Came.FAILED

    def _answered_side(self, copy: Copy) -> Side:
        """What its caller got, and after how long."""
        original, spec = copy.original, copy.original.inference.spec
        if self._original_reader.spec is not spec:
            self._original_reader = Reader(spec, self.shadow.output)
        return self._original_reader.side(original.outcome, original.record, copy.rider.record.queued_ns)

    # Life -----------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Take no more, drop what waits, cancel what runs."""
        self._closed = True
        if self._alarm is not None:
            self._alarm.cancel()
        self._note_spared()
        self._take_all("stopped")
        while self._waiting:
            self._drop(self._waiting.popleft(), "stopped")
        await end(*self._running)
        await self.dispatcher.close()
