"""One replica as this gateway sees it: its channel, what it has of ours, whether it may be chosen.

Owned by a Dispatcher. Sees a dead host or a stopped process by keepalive, and a hung one by the cap on a call.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from headrace.channel import REFUSALS
from headrace.core.records import ReplicaIdentity
from headrace.credentials import NOBODY, ClientCredentials
from headrace.rpc.channel import Channel, Exchange
from headrace.rpc.messages import STATUS, Failure
from headrace.v1 import control_pb2, replica_pb2

log = logging.getLogger(__name__)

EXECUTE: Final = "/headrace.v1.Replica/ExecuteStream"
HEALTH: Final = "/grpc.health.v1.Health/Check"
PROBE_TIMEOUT_S: Final = 0.5
PROBE_BACKOFF_S: Final = (0.0, 0.25, 0.5, 1.0, 2.0, 5.0)
EVICTING: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,  # the cap of the call, never a rider's deadline
        grpc.StatusCode.FAILED_PRECONDITION,  # the port belongs to another replica now
        grpc.StatusCode.CANCELLED,  # its server stopped before the grace was over
    }
)


class BatchLost(Exception):
    """A batch came back without an answer: refused, failed at the replica, or lost with it."""

    def __init__(self, code: grpc.StatusCode, sentence: str, stamps: replica_pb2.Stamps | None = None) -> None:
        super().__init__(sentence)
        self.code = code
        self.stamps = stamps
        """How far it got; None = the replica is lost and said nothing."""


@dataclass(frozen=True, slots=True)
class Sender:
    """A gateway, as its replicas get to know it."""

    gateway_id: str
    credentials: ClientCredentials = NOBODY


@dataclass(slots=True, eq=False)
class Flight:
    """One batch at a replica, or on its way to one."""

    link: ReplicaLink
    rows: int
    tokens: int
    ends_at: float
    """When its answer is expected, on the gateway's clock, seconds."""
    alone: bool
    """No other replica of the lane had anything of ours when it was booked."""


class ReplicaLink:
    """A replica, its channel and its share of our work."""

    def __init__(self, registration: control_pb2.Registration, credentials: ClientCredentials = NOBODY) -> None:
        self.endpoint = registration.endpoint
        self.listed = True
        """The latest snapshot names it. One that is not named but answers is kept: control may have lost it only."""
        self.update(registration)
        self.evicted = False
        self.closed = False
        self.queued_elsewhere = 0
        """Batches of others that waited there, by its last answer."""
        self.flights: list[Flight] = []
        self._channel = Channel(registration.endpoint, credentials)
        self._stream: Exchange | None = None
        self._opening = asyncio.Lock()
        self._answers: dict[int, asyncio.Future[replica_pb2.PackedAnswer | None]] = {}
        """Batch id → who waits for its answer; None instead of one: the stream has ended."""
        self._channel.warm_up()

    def update(self, registration: control_pb2.Registration) -> None:
        """Take over what the latest snapshot says of it."""
        self.listed = True
        self.state = registration.state
        self._standby = registration.standby
        self.identity = ReplicaIdentity(
            registration.replica_id, registration.host, registration.device, registration.precision
        )

    @property
    def replica_id(self) -> str:
        return self.identity.replica_id

    @property
    def choosable(self) -> bool:
        return self.state == control_pb2.REPLICA_STATE_READY and not self.evicted

    @property
    def usable(self) -> bool:
        """It answers: one that may be chosen, or one that stands by because a later cluster has taken over."""
        return self.choosable or (self._standby and not self.evicted)

    @property
    def rows(self) -> int:
        """Rows of ours that it has not answered yet."""
        return sum([flight.rows for flight in self.flights])

    async def execute(self, batch: replica_pb2.PackedBatch, cap_s: float) -> replica_pb2.PackedAnswer:
        """Send one batch and await its answer. Raises: BatchLost, with DEADLINE_EXCEEDED after `cap_s`.

        Cancellation: the answer is dropped when it comes.
        """
        answered: asyncio.Future[replica_pb2.PackedAnswer | None] = asyncio.get_running_loop().create_future()
        self._answers[batch.batch_id] = answered
        try:
            async with asyncio.timeout(cap_s):
                stream = self._stream or await self._open()
                stream.send(batch.SerializeToString())
                answer = await answered
        except TimeoutError:
            raise BatchLost(grpc.StatusCode.DEADLINE_EXCEEDED, "the replica did not answer in time") from None
        finally:
            del self._answers[batch.batch_id]
        if answer is None:
            raise _gone()
        if answer.code:
            raise BatchLost(STATUS.get(answer.code, grpc.StatusCode.UNKNOWN), answer.message, answer.stamps)
        return answer

    async def _open(self) -> Exchange:
        """The stream that batches go into, new where there is none. Raises: BatchLost."""
        async with self._opening:
            if self._stream is None:
                if self.evicted or self.closed:
                    raise _gone()
                try:
                    self._stream = await self._channel.stream(EXECUTE, self._on_answer, self._on_end)
                except Failure as failure:
                    raise _gone() from failure
            return self._stream

    def _on_answer(self, message: bytes) -> None:
        try:
            answer = replica_pb2.PackedAnswer.FromString(message)
        except DecodeError:
            log.warning("replica %s has sent what is no answer: its stream ends", self.replica_id)
            if self._stream is not None:
                self._stream.cancel()
            return
        answered = self._answers.get(answer.batch_id)
        if answered is not None and not answered.done():
            answered.set_result(answer)

    def _on_end(self, code: grpc.StatusCode, why: str) -> None:
        """The stream is no more: whoever still waits is told that its batch is lost."""
        if code in REFUSALS:
            log.error("replica %s does not let this gateway in: %s", self.replica_id, why)
        self._stream = None
        for answered in self._answers.values():
            if not answered.done():
                answered.set_result(None)

    def evict(self) -> None:
        """Out of choice; what it still has of ours fails at once and is retried elsewhere."""
        self.evicted = True
        if self._stream is not None:
            self._stream.cancel()

    async def probe(self) -> None:
        """Ask its health until it answers SERVING once; then it may be chosen again. Ends when the link is closed.

        Cancellation: stops asking; the link stays evicted.
        """
        attempt = 0
        while self.evicted and not self.closed:
            await asyncio.sleep(PROBE_BACKOFF_S[min(attempt, len(PROBE_BACKOFF_S) - 1)])
            attempt += 1
            self.evicted = not await self.answers()

    async def answers(self) -> bool:
        """It says that it is serving. Anybody may ask that: our token goes with batches only."""
        question = health_pb2.HealthCheckRequest().SerializeToString()
        try:
            answer = await self._channel.unary(HEALTH, question, PROBE_TIMEOUT_S, as_nobody=True)
        except Failure:
            return False
        return bool(health_pb2.HealthCheckResponse.FromString(answer).status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        self.closed = True
        if self._stream is not None:
            self._stream.cancel()
        await self._channel.close()


def _gone() -> BatchLost:
    return BatchLost(grpc.StatusCode.UNAVAILABLE, "the replica is gone")
