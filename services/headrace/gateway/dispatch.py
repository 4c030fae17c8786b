"""Chooses a replica for a batch, sends it, and sends it elsewhere once if the replica is lost.

One per lane. Knows replicas and batches; knows nothing of callers, queues or the protocol they speak.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable
from typing import Final

import grpc

from headrace.core.batch import Batch, Packed, pack, row_values
from headrace.core.clock import Clock
from headrace.core.cost import TRUSTED_AFTER, CostModel
from headrace.core.policy import Room
from headrace.core.records import DispatchRecord, Stages
from headrace.core.sharing import Sharing
from headrace.errors import BackendLost, BrokenContract, ModelFailed, Overloaded
from headrace.gateway.link import EVICTING, BatchLost, Flight, ReplicaLink, Sender
from headrace.gateway.pressure import Pressure
from headrace.tasks import end
from headrace.telemetry import context
from headrace.v1 import control_pb2, replica_pb2

SLOTS: Final = 2
"""Batches at one replica from this gateway: one running, one staged just in time."""
PATIENCE_S: Final = 0.01
"""A lane may be slow and quiet while others keep the loop busy: its riders are not held back longer than this."""
LEAD_GAIN: Final = 0.1
LEAD_MAX_S: Final = 0.05
UNLISTED_CHECK_S: Final = 1.0
CAP_MIN_S: Final = 0.25
CAP_MAX_S: Final = 2.0
CAP_FACTOR: Final = 10.0
"""A call is overdue after ten times its prediction, within these bounds; a slow model's own time widens them."""
RETRY_SHARE: Final = 0.1
RETRIES_ALWAYS: Final = 10.0
"""Retries allowed: a tenth of the batches, and at least ten a second: an outage must not double the load."""


class RetryBudget:
    """A token bucket that every batch fills a little and every retry empties by one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tokens = RETRIES_ALWAYS
        self._at = clock.now()

    def earn(self) -> None:
        self._tokens = min(self._tokens + RETRY_SHARE, 10 * RETRIES_ALWAYS)

    def spend(self) -> bool:
        now = self._clock.now()
        self._tokens = max(self._tokens, min(RETRIES_ALWAYS, self._tokens + (now - self._at) * RETRIES_ALWAYS))
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Dispatcher:
    """The replicas of one lane, and the way a batch takes to one of them."""

    def __init__(
        self,
        sender: Sender,
        clock: Clock,
        cost: CostModel,
        pressure: Pressure,
        on_room: Callable[[], None],
        on_free: Callable[[], None],
    ) -> None:
        self._sender = sender
        self._clock = clock
        self._cost = cost
        self._pressure = pressure
        self._sharing = Sharing()
        self._on_room = on_room
        self._on_free = on_free
        self._links: dict[str, ReplicaLink] = {}
        self._budget = RetryBudget(clock)
        self._lead_s = 0.0
        """What a batch takes outside its replica: packing, the wire both ways, the loop's own turns."""
        self._retries_waiting: list[asyncio.Future[None]] = []
        self._probes: set[asyncio.Task[None]] = set()
        self.retries = 0
        self.evictions = 0

    # Membership ---------------------------------------------------------------------------------------------------

    def update(self, registrations: Iterable[control_pb2.Registration]) -> None:
        """Take over what a snapshot says of this lane's replicas."""
        named = {registration.replica_id: registration for registration in registrations}
        for replica_id, registration in named.items():
            link = self._links.get(replica_id)
            if link is not None and link.endpoint != registration.endpoint:
                self._forget(link)  # what it still has of ours is lost, and tried again
                link = None
            if link is None:
                self._links[replica_id] = link = ReplicaLink(registration, self._sender.credentials)
            link.update(registration)
        for link in list(self._links.values()):
            if link.replica_id not in named:
                self._unlist(link)
        self._room_changed()

    @property
    def ready(self) -> bool:
        """Some replica could take a batch now or soon."""
        return any(link.usable for link in self._links.values())

    @property
    def replicas(self) -> int:
        """How many could take one."""
        return len(self._usable())

    @property
    def flights(self) -> int:
        """Batches at replicas."""
        return sum(len(link.flights) for link in self.links)

    @property
    def rows(self) -> int:
        """Rows at replicas."""
        return sum([link.rows for link in self._links.values()])

    def holds(self, replica_id: str) -> bool:
        """Whether this replica has something of ours."""
        link = self._links.get(replica_id)
        return link is not None and bool(link.flights)

    @property
    def links(self) -> tuple[ReplicaLink, ...]:
        return tuple(self._links.values())

    def _unlist(self, link: ReplicaLink) -> None:
        """Absence alone takes nobody out: a fresh control lists nobody yet. One who drains or is lost is forgotten."""
        if not link.usable and not link.flights:
            self._forget(link)
        elif link.listed:
            self._own(self._watch_unlisted(link))
        link.listed = False

    async def _watch_unlisted(self, link: ReplicaLink) -> None:
        """Ask one whom control names no more whether it is there: without traffic, nobody else would find out."""
        await asyncio.sleep(UNLISTED_CHECK_S)
        while not link.listed and link.usable and not link.closed:
            if not await link.answers():
                self._evict(link)
            await asyncio.sleep(UNLISTED_CHECK_S)

    def _forget(self, link: ReplicaLink) -> None:
        if self._links.get(link.replica_id) is link:
            del self._links[link.replica_id]
        self._own(link.close())

    def _evict(self, link: ReplicaLink) -> None:
        if link.evicted:
            return
        self.evictions += 1
        link.evict()
        if link.listed:
            self._own(self._bring_back(link))
        else:
            self._forget(link)

    async def _bring_back(self, link: ReplicaLink) -> None:
        await link.probe()
        self._room_changed()

    def _own(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    # Choice -------------------------------------------------------------------------------------------------------

    def room(self) -> Room | None:
        """The best place for another batch, or None while every replica has all it may have."""
        link = None if self._retries_waiting else self._choose()
        if link is None:
            return None
        if not link.flights:
            return Room(enough_rows=self._enough_rows(), patience_s=PATIENCE_S)
        ends_at = link.flights[-1].ends_at
        return Room(enough_rows=link.rows, stage_at=ends_at - self._lead_s, starts_at=ends_at, idle=False)

    def _enough_rows(self) -> int:
        """For an idle replica: whatever waits, unless another batch costs the loop, or its neighbours, too much.

        Then as much as all that run have together.
        """
        dear = self._pressure.high or self._sharing.costly
        return sum(link.rows for link in self._links.values()) if dear else 0

    def _others(self, link: ReplicaLink) -> bool:
        """Another replica has something of ours."""
        return any(other.flights for other in self._links.values() if other is not link)

    def learn(self, flight: Flight, tokens: int, seconds: float) -> None:
        """Take in what an answered batch took, from sending to its answer, less what it waited behind others.

        Zero or less: the replica's stamps can't be true, and say nothing.
        """
        if seconds <= 0:
            return
        beside = self._others(flight.link)
        if flight.alone is not beside:  # company that came or went meanwhile says nothing
            self._sharing.observe(seconds / max(1e-6, self._cost.predict_s(tokens)), alone=flight.alone)
        self._cost.observe(tokens, seconds)

    def free_in_s(self, now: float, waiting_s: float) -> float:
        """When what the replicas have, and `waiting_s` of work besides, will be done; 0 = one of them is free now."""
        links = self._usable()
        if not links or (not waiting_s and not all(link.flights for link in links)):
            return 0.0
        left_s = sum([max(0.0, link.flights[-1].ends_at - now) for link in links if link.flights])
        return (left_s + waiting_s) / len(links)

    def _usable(self) -> list[ReplicaLink]:
        """Those that may be chosen; while there is none, those that stand by."""
        choosable = [link for link in self._links.values() if link.choosable]
        return choosable or [link for link in self._links.values() if link.usable]

    def _choose(self, other_than: ReplicaLink | None = None) -> ReplicaLink | None:
        """The replica with the least work in seconds; ties at random, so that gateways don't march together.

        `other_than` is the one that has lost a batch: it gets it again only where there is no other, busy or not.
        """
        usable = self._usable()
        others = [link for link in usable if link is not other_than]
        free = [link for link in others or usable if len(link.flights) < SLOTS]
        return min(free, key=lambda link: (self._work_s(link), random.random()), default=None)

    def _work_s(self, link: ReplicaLink) -> float:
        own_s = sum(self._cost.predict_s(flight.tokens) for flight in link.flights)
        return own_s + link.queued_elsewhere * self._cost.predict_s(0)

    # One batch ----------------------------------------------------------------------------------------------------

    def book(self, batch: Batch) -> Flight:
        """Take the best place for a batch that was closed because `room` said there is one."""
        link = self._choose()
        assert link is not None, "This is a bug."
        return self._board(batch, link)

    async def dispatch(self, batch: Batch, flight: Flight, *, again: bool = True) -> replica_pb2.PackedAnswer:
        """Have the booked replica compute the batch; if that replica is lost and `again`, one other.

        Riders with values their model refuses are settled here and leave the batch, so do those who are settled
        while it waits for its second try.

        Raises: BackendLost, Overloaded, ModelFailed, BrokenContract.
        Cancellation: the call is cancelled; the replica drops a batch that has not begun.
        """
        self._budget.earn()
        try:
            return await self._attempt(batch, flight, 1)
        except BatchLost as error:
            self._after_failure(error, flight.link)
            if not again and error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise Overloaded("the replica's queue is full") from error
            if not again:
                raise BackendLost("the replica was lost") from error
            batch.drop_departed()
            if not batch.riders:
                return replica_pb2.PackedAnswer()
            if not self._budget.spend():
                raise BackendLost("the replica was lost, and too many others were lately") from error
        self.retries += 1
        flight = await self._board_elsewhere(batch, flight.link)
        try:
            return await self._attempt(batch, flight, 2)
        except BatchLost as error:
            self._after_failure(error, flight.link)
            if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise Overloaded("every replica's queue is full") from error
            raise BackendLost("the replica was lost and the retry failed too") from error

    def _board(self, batch: Batch, link: ReplicaLink) -> Flight:
        begins = max([self._clock.now(), *(flight.ends_at for flight in link.flights)])
        ends_at = begins + self._cost.predict_s(batch.tokens)
        flight = Flight(link, batch.rows, batch.tokens, ends_at, alone=not self._others(link))
        link.flights.append(flight)
        return flight

    async def _board_elsewhere(self, batch: Batch, lost: ReplicaLink) -> Flight:
        """A place for a second try, before anything that still queues. Waits no longer than the batch's last rider."""
        while (link := self._choose(lost)) is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._retries_waiting.append(waiter)
            try:
                async with asyncio.timeout(max(0.0, batch.latest_deadline - self._clock.now())):
                    await waiter
            except TimeoutError as error:
                raise BackendLost("the replica was lost and no other became free in time") from error
            finally:
                self._retries_waiting.remove(waiter)
        batch.drop_departed()
        return self._board(batch, link)

    async def _attempt(self, batch: Batch, flight: Flight, attempt: int) -> replica_pb2.PackedAnswer:
        link = flight.link
        begun_ns = self._clock.now_ns()
        try:
            packed = pack(batch)
            if not batch.riders:
                return replica_pb2.PackedAnswer()
            record = DispatchRecord(context.new_id(), attempt, link.identity, self._clock.now_ns())
            batch.record.dispatches.append(record)
            message = self._message(batch, packed, link, record)
            record.payload_bytes = message.ByteSize()
            answer = await self._call(message, flight, record)
        finally:
            link.flights.remove(flight)
            self._room_changed()
        link.queued_elsewhere = max(0, answer.queued - len(link.flights))
        away_ns = record.end_ns - begun_ns - (answer.stamps.packed_ns - answer.stamps.received_ns)
        self._lead_s += LEAD_GAIN * (min(max(away_ns / 1e9, 0.0), LEAD_MAX_S) - self._lead_s)
        self._on_free()
        return answer

    async def _call(
        self, message: replica_pb2.PackedBatch, flight: Flight, record: DispatchRecord
    ) -> replica_pb2.PackedAnswer:
        try:
            answer = await flight.link.execute(message, self._cap_s(flight.link, last=record.attempt > 1))
        except BatchLost as error:
            record.error = error.code.name
            record.stages = _stages(error.stamps) if error.stamps is not None else None
            raise
        except asyncio.CancelledError:
            record.error = "CANCELLED"
            raise
        finally:
            record.end_ns = self._clock.now_ns()
        record.stages = _stages(answer.stamps)
        record.padded_tokens = answer.padded_tokens
        record.expired = answer.status.count(replica_pb2.ROW_STATUS_EXPIRED)
        return answer

    def _message(
        self, batch: Batch, packed: Packed, link: ReplicaLink, record: DispatchRecord
    ) -> replica_pb2.PackedBatch:
        now = self._clock.now()
        spec = batch.spec
        remaining_s = row_values(batch, [rider.inference.deadline - now for rider in batch.riders])
        contexts = [
            context.pack(r.record.trace_id, r.record.span_id, sampled=r.record.sampled) * r.inference.rows
            for r in batch.riders
        ]
        return replica_pb2.PackedBatch(
            replica_id=link.replica_id,
            model=spec.name,
            version=spec.version,
            gateway_id=self._sender.gateway_id,
            rows=batch.rows,
            columns=packed.columns,
            lengths=[column.tobytes() for column in packed.lengths],
            remaining_s=remaining_s.tobytes(),
            row_contexts=b"".join(contexts),
            context=context.pack(batch.record.trace_id, record.span_id, sampled=batch.record.sampled),
            batch_id=batch.record.span_id,
            backlog_s=batch.demand.backlog_s,
            slack_s=batch.demand.slack_s,
            work=batch.demand.work,
            replicas=batch.demand.replicas,
            row_tracestates=_tracestates(batch),
            wants_extras=_wants_extras(batch),
            shadow=batch.record.path == "shadow",
        )

    def _cap_s(self, link: ReplicaLink, *, last: bool) -> float:
        """How long an answer may take before the replica counts as hung: what is in front of it included.

        Short only where haste can help: this is not the last try, another replica is there for the next one, and the
        prediction is learnt.
        """
        expected_s = sum(self._cost.predict_s(flight.tokens) for flight in link.flights)
        longest_s = max(CAP_MAX_S, 3 * expected_s)
        alternative = any(other.usable for other in self._links.values() if other is not link)
        if last or not alternative or self._cost.observed < TRUSTED_AFTER:
            return longest_s
        return min(max(CAP_FACTOR * expected_s, CAP_MIN_S), longest_s)

    def _after_failure(self, error: BatchLost, link: ReplicaLink) -> None:
        """Evict a lost replica. Raises what the riders are told where a second try would not help them."""
        if error.code in EVICTING:
            self._evict(link)
        elif error.code is grpc.StatusCode.INTERNAL:
            raise ModelFailed("the model failed on this batch") from error
        elif error.code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise BrokenContract("the replica refused the batch") from error

    def _room_changed(self) -> None:
        for waiter in self._retries_waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._on_room()

    async def close(self) -> None:
        """Stop probing and close every channel."""
        await end(*self._probes)
        await asyncio.gather(*(link.close() for link in self._links.values()))


def _wants_extras(batch: Batch) -> bytes:
    """One byte a row; none at all where nobody asks."""
    if not batch.wants_extras:
        return b""
    return b"".join([bytes([rider.inference.wants_extras]) * rider.inference.rows for rider in batch.riders])


def _tracestates(batch: Batch) -> dict[int, str]:
    """Row → tracestate, for the few whose callers sent one."""
    found: dict[int, str] = {}
    row = 0
    for rider in batch.riders:
        if rider.record.tracestate:
            found.update(dict.fromkeys(range(row, row + rider.inference.rows), rider.record.tracestate))
        row += rider.inference.rows
    return found


def _stages(stamps: replica_pb2.Stamps) -> Stages:
    return Stages(
        stamps.received_ns,
        stamps.started_ns,
        stamps.unpacked_ns,
        stamps.copied_ns,
        stamps.computed_ns,
        stamps.fetched_ns,
        stamps.packed_ns,
    )
