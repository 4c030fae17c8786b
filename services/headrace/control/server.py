"""The control process: replicas register, gateways follow. Nothing on the payment path waits for it.

Owns the Directory and the streams; every rule about entries and leases is in `discovery`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from typing import Final, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from headrace import doors
from headrace.config import Settings
from headrace.control.discovery import Directory
from headrace.core.clock import MonotonicClock
from headrace.errors import HeadraceError, StartupError
from headrace.rpc.call import Call
from headrace.rpc.server import Server
from headrace.v1 import control_pb2, control_pb2_grpc

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 2.0
"""A follower hears from us at least so often: silence means a dead stream."""
EXPIRY_PERIOD_S: Final = 0.1


class ControlServer(control_pb2_grpc.ControlServicer):
    """`headrace.v1.Control` on its own port. `async with ControlServer(settings)` serves it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.control
        self._directory = Directory(MonotonicClock(), settings.control.lease_s)
        for name, model in settings.models.items():
            self._directory.set_primary(name, model.primary_version)
        self._epoch = secrets.token_hex(8)
        self._changed = asyncio.Condition()
        self._health = HealthServicer()
        self._doors = doors.of(settings)
        self._access = self._doors.access
        self._server = Server()
        self._expiry: asyncio.Task[None] | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open the port. Raises: StartupError when it is taken."""
        control_pb2_grpc.add_ControlServicer_to_server(self, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflector = ReflectionServicer(("headrace.v1.Control", reflection.SERVICE_NAME))
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflector, self._server)
        try:
            self.port = self._doors.open(self._server, f"{self._settings.host}:{self._settings.port}")
        except OSError as error:
            raise StartupError(f"control: port {self._settings.port} is taken") from error
        await self._server.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        self._expiry = asyncio.get_running_loop().create_task(self._expire_leases(), name="expire-leases")
        log.info("control serves on port %d", self.port)

    async def stop(self) -> None:
        """Close the port; followers and replicas keep what they have and come back by themselves."""
        if self._expiry is not None:
            self._expiry.cancel()
        await self._server.stop(0.2)

    async def serve_until(self, stopped: asyncio.Event) -> None:
        """Serve until somebody sets `stopped`."""
        async with self:
            await stopped.wait()

    async def set_primary(self, model: str, version: str) -> None:
        """Name the version that answers; every gateway follows."""
        if self._directory.set_primary(model, version):
            await self._tell()

    async def Register(
        self, messages: AsyncIterator[control_pb2.Registration], rpc: Call
    ) -> AsyncIterator[control_pb2.Lease]:
        lease = control_pb2.Lease(lease_ms=int(self._settings.lease_s * 1000))
        async for registration in messages:
            # Not before: grpc.aio's client makes INTERNAL of a refusal that overtakes its first message.
            await self._access.admit(rpc, "replica")
            try:
                changed = self._directory.register(registration)
            except HeadraceError as error:
                await rpc.abort(grpc.StatusCode[error.code], str(error))
            if changed:
                await self._tell()
            yield lease

    async def Follow(self, request: control_pb2.FollowRequest, rpc: Call) -> AsyncIterator[control_pb2.Snapshot]:
        await self._access.admit(rpc, "gateway")
        while True:
            sent = self._directory.version
            yield self._directory.snapshot(self._epoch)
            await self._wait_for_change(sent)

    async def Describe(self, request: control_pb2.DescribeRequest, rpc: Call) -> control_pb2.Snapshot:
        await self._access.admit(rpc, "read")
        return self._directory.snapshot(self._epoch)

    async def _wait_for_change(self, sent: int) -> None:
        """Until the version is another than `sent`, or a heartbeat is due."""
        try:
            async with asyncio.timeout(HEARTBEAT_S), self._changed:
                await self._changed.wait_for(lambda: self._directory.version != sent)
        except TimeoutError:
            return

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _expire_leases(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_PERIOD_S)
            if self._directory.expire():
                await self._tell()
