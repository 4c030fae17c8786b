"""Follows control: hands every snapshot to the gateway, and keeps quiet while control is away.

Static stability: a lost stream changes nothing by itself. What the gateway knew stays in force.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from grpc import aio

from headrace.channel import REFUSALS, connect
from headrace.credentials import NOBODY, ClientCredentials
from headrace.v1 import control_pb2, control_pb2_grpc

log = logging.getLogger(__name__)

SILENCE_S: Final = 5.0
"""Control sends a heartbeat every 2 s; a stream that is silent for longer is dead, whatever TCP says."""
BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0)


class SnapshotFollower:
    """One stream from control, kept alive for ever."""

    def __init__(
        self,
        control_address: str,
        gateway_id: str,
        on_snapshot: Callable[[control_pb2.Snapshot], None],
        credentials: ClientCredentials = NOBODY,
    ) -> None:
        self._address = control_address
        self._credentials = credentials
        self._credentials.check(control_address)
        self._gateway_id = gateway_id
        self._on_snapshot = on_snapshot
        self.connected = False

    async def run(self) -> None:
        """Follow until cancelled."""
        failures = 0
        refused = False
        while True:
            try:
                # A channel a stream: files of TLS that have changed meanwhile are read.
                async with connect(self._address, self._credentials) as channel:
                    await self._follow(control_pb2_grpc.ControlStub(channel))
            except (aio.AioRpcError, TimeoutError) as error:
                failures = 0 if self.connected else failures + 1
                if self.connected:
                    log.warning("control at %s is away; going on with what is known", self._address)
                elif isinstance(error, aio.AioRpcError) and error.code() in REFUSALS and not refused:
                    refused = True
                    log.error("control at %s does not let us in: %s", self._address, error.details())  # noqa: TRY400
            self.connected = False
            await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])

    async def _follow(self, stub: control_pb2_grpc.ControlStub) -> None:
        """Read one stream until it ends. Raises: AioRpcError, TimeoutError after `SILENCE_S` without a word."""
        call = stub.Follow(control_pb2.FollowRequest(gateway_id=self._gateway_id))
        try:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    snapshot = await call.read()
                if snapshot is aio.EOF:
                    return
                self.connected = True
                self._hand_over(snapshot)
        finally:
            call.cancel()

    def _hand_over(self, snapshot: control_pb2.Snapshot) -> None:
        try:
            self._on_snapshot(snapshot)
        except Exception:  # a snapshot we can't digest must not end the following: the next one may be fine
            log.exception("snapshot %d was not taken over", snapshot.version)
