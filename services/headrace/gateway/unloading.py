"""Tells control when this gateway has answered all that it held of a model that is unloaded: its replicas stop then."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from grpc import aio

from headrace.channel import connect
from headrace.gateway.link import Sender
from headrace.gateway.models import Models
from headrace.v1 import control_pb2, control_pb2_grpc

log = logging.getLogger(__name__)

PERIOD_S: Final = 0.02
"""How often lanes that empty are looked at, while there are such."""
TIMEOUT_S: Final = 2.0


class DrainTeller:
    """`run` it."""

    def __init__(self, control_address: str, sender: Sender, models: Models) -> None:
        self._address = control_address
        self._sender = sender
        self._models = models
        self._told: set[int] = set()

    async def run(self) -> None:
        """Until cancelled."""
        repository = self._models.repository
        while True:
            await repository.news.wait()
            repository.news.clear()
            self._told &= repository.unloading().keys()
            while waiting := repository.unloading().keys() - self._told:
                for act in waiting:
                    await self._look_at(act, repository.unloading().get(act, ""))
                await asyncio.sleep(PERIOD_S)

    async def _look_at(self, act: int, model: str) -> None:
        if not self._models.drained(model):
            return
        try:
            async with connect(self._address, self._sender.credentials) as channel:
                message = control_pb2.DrainedRequest(gateway_id=self._sender.gateway_id, act=act)
                await control_pb2_grpc.ControlStub(channel).Drained(message, timeout=TIMEOUT_S)
        except aio.AioRpcError as error:  # it is told at the next look
            log.debug("control did not hear that '%.256s' is drained: %s", model, error.details())
        else:
            self._told.add(act)
