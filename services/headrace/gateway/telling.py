"""Tells control the pairs, once a second, in numbered messages: counted once however often they are sent.

While control is away pairs gather in bounded memory; the oldest make room and are counted as dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import Final

import grpc
from grpc import aio

from headrace.channel import connect
from headrace.gateway.link import Sender
from headrace.gateway.pairs import Notes
from headrace.v1 import experiments_pb2, experiments_pb2_grpc

log = logging.getLogger(__name__)

TELL_S: Final = 1.0
"""Control counts and commits each message: what it costs is by message, not by pair."""
TIMEOUT_S: Final = 5.0
BACKOFF_S: Final = 1.0
MAX_ROWS: Final = 20_000
"""Pairs of one comparison that wait for control: a few megabytes, and twenty seconds at a thousand a second."""
REFUSED: Final = frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT})
"""Control will not have these, however often they are sent."""


@dataclass(slots=True)
class Outbox:
    """What is to be told of one experiment."""

    pairs: Notes
    noise: Notes
    sequence: int = 0
    sending: experiments_pb2.RecordPairsRequest | None = None
    """Control may have counted it already: it stays as it is until it is acknowledged."""


class PairTeller:
    """One a gateway."""

    def __init__(self, control_address: str, sender: Sender) -> None:
        self._address = control_address
        self._sender = sender
        self._outboxes: dict[str, Outbox] = {}
        self.told = 0
        """Pairs that control has counted."""
        self.lost = 0
        """Pairs that it never will."""

    def notes(self, experiment_id: str, incumbent: str, *, noise: bool) -> Notes:
        """Where a comparison notes its pairs."""
        outbox = self._outboxes.get(experiment_id)
        if outbox is None:
            outbox = Outbox(Notes(experiment_id, incumbent), Notes(experiment_id, incumbent))
            self._outboxes[experiment_id] = outbox
        return outbox.noise if noise else outbox.pairs

    @property
    def waiting(self) -> int:
        """Pairs that control has not heard of."""
        return sum(box.pairs.rows + box.noise.rows + _rows(box.sending) for box in list(self._outboxes.values()))

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            # A channel until something fails: files of TLS that have changed meanwhile are read.
            async with connect(self._address, self._sender.credentials) as channel:
                stub = experiments_pb2_grpc.ExperimentServiceStub(channel)
                delivered = True
                while delivered:
                    await asyncio.sleep(TELL_S)
                    delivered = await self._tell_all(stub)
            await asyncio.sleep(BACKOFF_S)

    async def last_words(self, timeout_s: float) -> None:
        """Everything once more, before the process ends. What control does not take in time is lost."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), connect(self._address, self._sender.credentials) as channel:
                await self._tell_all(experiments_pb2_grpc.ExperimentServiceStub(channel))

    async def _tell_all(self, stub: experiments_pb2_grpc.ExperimentServiceStub) -> bool:
        """Whether control has taken it all."""
        taken = [await self._tell(stub, experiment_id, box) for experiment_id, box in list(self._outboxes.items())]
        return all(taken)

    async def _tell(self, stub: experiments_pb2_grpc.ExperimentServiceStub, experiment_id: str, box: Outbox) -> bool:
        """What control has not acknowledged, then one message of all that was noted: more comes while it is told."""
        for notes in (box.pairs, box.noise):
            self.lost += notes.make_room(MAX_ROWS)
        if box.sending is not None and not await self._delivered(stub, box):
            return False
        if box.pairs.empty and box.noise.empty:
            return True
        box.sequence += 1
        box.sending = self._sealed(experiment_id, box)
        return await self._delivered(stub, box)

    def _sealed(self, experiment_id: str, box: Outbox) -> experiments_pb2.RecordPairsRequest:
        """A numbered message of what was noted."""
        (pairs, counts), (noise, noise_counts) = box.pairs.take(), box.noise.take()
        return experiments_pb2.RecordPairsRequest(
            experiment_id=experiment_id,
            gateway_id=self._sender.gateway_id,
            sequence=box.sequence,
            pairs=pairs,
            noise=noise,
            counts=counts,
            noise_counts=noise_counts,
        )

    async def _delivered(self, stub: experiments_pb2_grpc.ExperimentServiceStub, box: Outbox) -> bool:
        """Whether control has heard what is being sent, or never wants to."""
        message = box.sending
        assert message is not None, "This is a bug."
        try:
            await stub.RecordPairs(message, timeout=TIMEOUT_S)
        except aio.AioRpcError as error:
            if error.code() not in REFUSED:
                return False
            log.warning("control will not have the pairs of %s: %s", message.experiment_id, error.details())
            self.lost += _rows(message)
        else:
            self.told += _rows(message)
        box.sending = None
        return True


def _rows(message: experiments_pb2.RecordPairsRequest | None) -> int:
    return 0 if message is None else len(message.pairs.at_us) + len(message.noise.at_us)
