"""A lane: the queue of one model version, and the pump that turns its riders into batches.

The servicer calls `score`; policy decides when a batch closes; the dispatcher takes it to a replica. A rider is
settled exactly once, by whoever is first: its answer, its deadline, its caller's leaving, or a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from headrace.config import BatchingSettings
from headrace.core import demand
from headrace.core.batch import Batch
from headrace.core.clock import Clock
from headrace.core.cost import TRUSTED_AFTER, CostModel
from headrace.core.demand import Arrivals, Demand
from headrace.core.forecast import Forecast
from headrace.core.inference import Answer, Inference
from headrace.core.ordering import Ordering
from headrace.core.policy import Budget, CloseReason, Room, close, look_again_at, take
from headrace.core.queue import LevelPolicy, RiderQueue
from headrace.core.records import BatchRecord, RpcRecord
from headrace.core.rider import Rider
from headrace.core.tensors import ModelSpec
from headrace.errors import (
    BrokenContract,
    Cancelled,
    DeadlinePassed,
    HeadraceError,
    NotServing,
    Overloaded,
)
from headrace.gateway.dispatch import Dispatcher
from headrace.gateway.link import Flight, Sender
from headrace.gateway.pressure import Pressure
from headrace.gateway.settling import fail, settle
from headrace.tasks import end
from headrace.telemetry import context
from headrace.v1 import replica_pb2

if TYPE_CHECKING:
    from headrace.gateway.fallback import Fallback

log = logging.getLogger(__name__)

SETTLE_EARLY_S: Final = 0.001
"""A rider's timer ends this long before its caller's: the caller hears why from us, not from its own clock."""
HANDFUL: Final = 8
REFUSED_S: Final = 0.1
"""Overload refuses more often than that; copies that are let in between would refuse more."""
CLOCKS_SHARE: Final = 0.9
"""Of its time: whoever leaves later was told to by its own clock, which began earlier than ours."""
TIMER_STEP_S: Final = 0.001
"""uvloop's timers count milliseconds, and may ring by that much too early."""


class Copying(Protocol):
    """Whoever may want a copy of what this lane has answered."""

    def offer(self, inference: Inference, record: RpcRecord, outcome: Answer | HeadraceError) -> None:
        """Look at one request that is over, and return at once: its caller has not been told yet."""
        ...

    def refused(self, refusal: HeadraceError) -> None:
        """The same of one that never got a place."""
        ...


class Lane:
    """One model version: who waits for it, what runs, and its replicas."""

    def __init__(
        self,
        spec: ModelSpec,
        settings: BatchingSettings,
        sender: Sender,
        clock: Clock,
        pressure: Pressure,
        on_batch: Callable[[BatchRecord], None],
    ) -> None:
        self.spec = replace(spec, max_rows=min(settings.max_rows or spec.max_rows, spec.max_rows))
        """As narrow as the settings make it: a request has no more rows than a batch may have."""
        self.settings = settings
        self.cost = CostModel()
        self.forecast = Forecast()
        self.path = "primary"
        """In what capacity it answers, as records say it: primary or canary."""
        self.answers = True
        """Some payments are its own to answer, by the policy."""
        self.copying: Sequence[Copying] = ()
        """The comparisons that its answers are half of."""
        self._visitors = 0
        self.fallback: Fallback | None = None
        """Who answers when it cannot; None = nobody."""
        self.queue = _queue(settings)
        self.dispatcher = Dispatcher(sender, clock, self.cost, pressure, self._pump_soon, self._pump)
        self._budget = Budget(
            rows=self.spec.max_rows,
            tokens=min(settings.max_tokens or spec.max_tokens, spec.max_tokens),
            delay_s=settings.max_queue_delay_us / 1e6,
            preferred=settings.preferred_batch_size,
        )
        self._ordering = Ordering() if settings.preserve_ordering else None
        self._arrivals = Arrivals(clock.now())
        self._clock = clock
        self._pressure = pressure
        self._on_batch = on_batch
        self._running: set[asyncio.Task[None]] = set()
        self._alive_at = clock.now()
        self._refused_at = -math.inf
        self._pump_planned = False
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def ready(self) -> bool:
        return self.dispatcher.ready

    @property
    def answered_otherwise(self) -> bool:
        """Requests of its own are answered even without a replica."""
        return self.answers and self.fallback is not None

    @property
    def strained(self) -> bool:
        """Somebody was refused a moment ago, or more waits than is at the replicas: one turn of them will not do.

        A handful always goes soon. Refusals keep a queue short that many more would like to be in.
        """
        waiting, running = self.queue.rows, self.dispatcher.rows
        if waiting > max(running, HANDFUL) and running > 0:
            return True
        return self._clock.now() - self._refused_at < REFUSED_S

    def foresee(self, deadline: float, priority: int, *, compared: bool = True) -> float:
        """Seconds that the replicas will be busy with what goes before one who comes now. Asked before any decoding.

        `compared`: refused or answered, it counts in this version's comparisons. Not one that names its version, or
        stands in for another's.

        Raises: DeadlinePassed when an answer would hardly come in time: a caller told at once can still do otherwise.
        """
        now = self._clock.now()
        rows, tokens = self.queue.ahead(self.queue.level_of(priority))
        waiting_s = self.cost.drain_s(self._budget.batches(rows, tokens), tokens) if rows else 0.0
        ahead_s = self.dispatcher.free_in_s(now, waiting_s)
        # Whoever finds a free replica is never refused: a forecast that has gone wrong is only mended by answers.
        if ahead_s and self.forecast.misses(ahead_s + self.cost.predict_s(0), deadline - now):
            refusal = DeadlinePassed("Request timeout expired: what waits would take longer than its deadline allows")
            self._arrivals.add_unseen()
            self._refused(refusal, compared=compared)
            raise refusal
        return ahead_s

    def assert_ready(self) -> None:
        """For those who need not wait for a replica to come. Raises: NotServing when there is none."""
        if not self.ready:
            refusal = self._without_replica()
            self._tell_refused(refusal)
            raise refusal

    def _without_replica(self) -> NotServing:
        return NotServing(f"no replica of '{self.spec.name}' is ready")

    def _refused(self, refusal: HeadraceError, *, compared: bool) -> None:
        self._refused_at = self._clock.now()
        if compared:
            self._tell_refused(refusal)

    def _tell_refused(self, refusal: HeadraceError) -> None:
        for one in self.copying:
            one.refused(refusal)

    async def score(self, inference: Inference, record: RpcRecord, ahead_s: float = 0.0) -> Answer:
        """Queue one inference and await its answer; `ahead_s` is what `foresee` has said of it.

        Raises: Overloaded (queue full), DeadlinePassed, NotServing, InvalidInference (a value), Failed.
        Cancellation: the rider leaves; its batch, if it is in one, goes on without it.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not done.done():
                done.set_result(None)

        rider = self._rider(inference, record, wake)
        rider.expected_s = ahead_s + self.cost.predict_s(inference.tokens)
        try:
            self._enqueue(rider)
        except Overloaded as refusal:
            self._refused(refusal, compared=inference.compared)
            raise
        if self._ordering is not None:  # now that it has a place: one that was refused would hold all others back
            self._ordering.enter(rider, wake)
        try:
            await done
        except asyncio.CancelledError:
            rider.settle(self._left(rider))
            self._offer(rider)
            raise
        finally:
            if rider.alarm is not None:
                rider.alarm.cancel()
            record.settled_ns = self._clock.now_ns()
        if rider.ends is not None:
            self._learn_of_telling(*rider.ends)
        assert rider.outcome is not None, "This is a bug."
        self._offer(rider)
        if isinstance(rider.outcome, Answer):
            return rider.outcome
        raise rider.outcome

    def _left(self, rider: Rider) -> HeadraceError:
        """Why a caller has gone: one that leaves at the end of its time has not changed its mind."""
        given_s = rider.inference.deadline - rider.queued_at
        if self._clock.now() - rider.queued_at >= CLOCKS_SHARE * given_s:
            return DeadlinePassed("Request timeout expired")
        return Cancelled("the caller went away")

    def _offer(self, rider: Rider) -> None:
        """Let whoever compares look at it."""
        if self.copying and rider.inference.compared:
            assert rider.outcome is not None, "This is a bug."
            for one in self.copying:
                one.offer(rider.inference, rider.record, rider.outcome)

    def _rider(self, inference: Inference, record: RpcRecord, wake: Callable[[], None]) -> Rider:
        level = self.queue.level_of(inference.priority)
        ordering = self._ordering
        if ordering is None:
            return Rider(inference, record, wake, level)
        rider = Rider(inference, record, lambda: ordering.settled(rider, wake), level)
        return rider

    def _enqueue(self, rider: Rider) -> None:
        """Raises: Overloaded."""
        inference, record, now = rider.inference, rider.record, self._clock.now()
        record.rows, record.tokens, record.priority = inference.rows, inference.tokens, inference.priority
        record.queue_depth = self.queue.rows
        self._arrivals.add(inference.rows, inference.tokens)
        rider.queued_until = now + self.queue.policy_of(rider.level).timeout_of(inference.timeout_s)
        self.queue.push(rider, now)
        record.queued_ns = self._clock.now_ns()
        self._pump_soon()
        self._set_alarm(rider, now)

    # Patience: a rider's timer --------------------------------------------------------------------------------------

    def _set_alarm(self, rider: Rider, now: float) -> None:
        """Have `_lose_patience` called when its time in the queue is over, or no answer can come in time any more."""
        end = rider.inference.deadline - SETTLE_EARLY_S
        if rider.queue is not None:
            needed_s = self.cost.predict_s(rider.inference.tokens) if self.cost.observed >= TRUSTED_AFTER else 0.0
            end = min(end - needed_s if self.ready else end, rider.queued_until)
        rider.alarm = asyncio.get_running_loop().call_later(max(0.0, end - now), self._lose_patience, rider)

    def _lose_patience(self, rider: Rider) -> None:
        now = self._clock.now() + TIMER_STEP_S
        over = now >= rider.inference.deadline - SETTLE_EARLY_S
        if rider.queue is None and not over:  # it rides: from now on only its deadline counts
            self._set_alarm(rider, now)
        elif rider.queue is not None and now >= rider.queued_until:
            self.queue.time_is_over(rider)
            if rider.outcome is None:
                self._set_alarm(rider, now)
        elif rider.queue is None or self.ready:
            rider.settle(DeadlinePassed("Request timeout expired"))
        elif over:
            rider.settle(self._without_replica())
        else:
            self._set_alarm(rider, now)

    # The pump: gather → close → dispatch → settle -----------------------------------------------------------------

    def _pump_soon(self) -> None:
        """Look at the queue once this turn of the loop is over: requests that arrive in one turn ride together."""
        if not self._pump_planned:
            self._pump_planned = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_planned = False
        while (room := self.dispatcher.room()) is not None:
            now = self._clock.now()
            reason = close(self.queue, self._budget, room, self.cost, now)
            if reason is None:
                self._look_again(room, now)
                return
            self._launch(reason, room, now)

    def _look_again(self, room: Room, now: float) -> None:
        """Have the pump called when the policy may change its mind by itself."""
        if self._alarm is not None:
            self._alarm.cancel()
        at = look_again_at(self.queue, self._budget, room, self.cost, now)
        self._alarm = None if at is None else asyncio.get_running_loop().call_later(max(0.0, at - now), self._pump_soon)

    def _launch(self, reason: CloseReason, room: Room, now: float) -> None:
        riders = take(self.queue, self._budget, room, self.cost, now)
        if not riders:
            return
        batch = Batch(self.spec, riders, self._record(reason, riders), self._demand(now))
        flight = self.dispatcher.book(batch)
        task = asyncio.get_running_loop().create_task(self._run(batch, flight), name=f"batch-{batch.rows}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _record(self, reason: CloseReason, riders: list[Rider]) -> BatchRecord:
        closed_ns = self._clock.now_ns()
        record = BatchRecord(
            trace_id=context.new_trace_id(),
            span_id=context.new_id(),
            model=self.spec.name,
            version=self.spec.version,
            path=self.path,
            closed_ns=closed_ns,
            close_reason=reason.value,
            oldest_ns=riders[0].record.queued_ns,
            rows=sum(rider.inference.rows for rider in riders),
            tokens=sum(rider.inference.tokens for rider in riders),
            members=[rider.record for rider in riders],
            unfinished=len(riders) + 1,
        )
        for rider in riders:
            rider.record.closed_ns = closed_ns
            rider.record.batch = record
        return record

    async def _run(self, batch: Batch, flight: Flight) -> None:
        try:
            answer = await self.dispatcher.dispatch(batch, flight)
            if batch.riders:
                settle(batch, answer, self._clock.now())
                self._learn(batch, flight, answer.stamps)
        except HeadraceError as error:
            fail(batch, type(error), str(error))
        except asyncio.CancelledError:
            fail(batch, NotServing, "the gateway is stopping")
            raise
        except Exception:  # the outer guard: whatever went wrong here, no rider is left to wait for its deadline
            log.exception("a batch was lost to an error of ours")
            fail(batch, BrokenContract, "internal error")
        finally:
            batch.record.settled_ns = self._clock.now_ns()
            asyncio.get_running_loop().call_soon(self._on_batch, batch.record)  # the callers come first

    def _learn(self, batch: Batch, flight: Flight, stamps: replica_pb2.Stamps) -> None:
        """Teach the round trip, less what the batch waited behind others at the replica."""
        sent_ns = batch.record.dispatches[-1].start_ns
        waited_ns = max(0, stamps.started_ns - stamps.received_ns)
        self.dispatcher.learn(flight, batch.tokens, (self._clock.now_ns() - sent_ns - waited_ns) / 1e9)

    def _learn_of_telling(self, expected_s: float, queued_at: float, answered_at: float) -> None:
        """The last of a batch to be told knows what all of it took; of the first, who has waited longest, the rest."""
        now = self._clock.now()
        self._pressure.observe_telling(now - answered_at)
        self.forecast.learn(expected_s, now - queued_at)

    # Life ---------------------------------------------------------------------------------------------------------

    def idle_s(self) -> float:
        """Seconds since it last had a replica, a rider, a batch or a visitor; 0 = it has one."""
        now = self._clock.now()
        if self.dispatcher.links or not self.empty:
            self._alive_at = now
        return now - self._alive_at

    @property
    def empty(self) -> bool:
        """Nobody who has found it waits for anything."""
        return not (len(self.queue) or self._running or self._visitors)

    @contextlib.contextmanager
    def visited(self) -> Iterator[None]:
        """By a request that has found it, and takes more than one turn of the loop to get into its queue."""
        self._visitors += 1
        try:
            yield
        finally:
            self._visitors -= 1

    def backlog_s(self) -> float:
        """Replica-seconds of work that wait here."""
        return demand.backlog_s(self.queue, self._budget, self.cost)

    def _demand(self, now: float) -> Demand:
        """What is asked of its replicas besides the batch that leaves now."""
        return Demand(
            self.backlog_s(),
            demand.slack_s(self.queue, self._budget, self.cost, now),
            demand.work(self._arrivals, self._budget, self.cost, now),
            self.dispatcher.replicas,
        )

    async def close(self) -> None:
        """Cancel what runs, settle what waits, close the channels."""
        if self._alarm is not None:
            self._alarm.cancel()
        while (rider := self.queue.pop()) is not None:
            rider.settle(NotServing("the gateway is stopping"))
        await end(*self._running)
        await self.dispatcher.close()


def _queue(settings: BatchingSettings) -> RiderQueue:
    policies = [
        LevelPolicy(
            max_rows=policy.max_queue_size,
            timeout_s=policy.default_timeout_us / 1e6,
            timeout_may_be_shorter=policy.allow_timeout_override,
            delays=policy.timeout_action == "delay",
        )
        for policy in map(settings.queue_policy, range(1, settings.priority_levels + 1))
    ]
    share = settings.lowest_level_share if len(policies) > 1 else 0.0
    return RiderQueue(settings.max_queue_rows, policies, settings.default_priority_level, share)
