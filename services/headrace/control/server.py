"""The control process: replicas register, gateways follow, experiments run. Nothing on the payment path waits for it.

Owns the Directory, the ledger and the streams; rules are in `discovery` (entries, leases) and `trials` (who answers).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Final, Self

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer
from prometheus_client import CollectorRegistry

from headrace import doors
from headrace.config import Settings
from headrace.control import drafting
from headrace.control.answering import answering
from headrace.control.deploying import Deploying
from headrace.control.discovery import Directory
from headrace.control.experiments import ExperimentService
from headrace.control.ledger import Ledger
from headrace.control.scrape import Streams, scrape
from headrace.control.trials import Trials
from headrace.core.clock import MonotonicClock
from headrace.errors import HeadraceError, NotServing, StartupError
from headrace.rpc.call import Call
from headrace.rpc.health import LIVENESS, READINESS, Health
from headrace.rpc.server import Server
from headrace.tasks import end
from headrace.telemetry.http import MetricsServer
from headrace.telemetry.metrics import Scraped
from headrace.v1 import control_pb2, control_pb2_grpc, experiments_pb2_grpc

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 2.0
"""A follower hears from us at least so often: silence means a dead stream."""
EXPIRY_PERIOD_S: Final = 0.1


SERVICES: Final = ("headrace.v1.Control", "headrace.v1.ExperimentService")


def _wall_us() -> int:
    return time.time_ns() // 1000


class ControlServer(control_pb2_grpc.ControlServicer):
    """`headrace.v1.Control` on its own port. `async with ControlServer(settings)` serves it."""

    def __init__(self, settings: Settings, wall_us: Callable[[], int] = _wall_us) -> None:
        self._settings = settings.control
        self._models = settings.models
        self._cuts = (float(settings.risk.highest),)
        self._wall_us = wall_us
        self._directory = Directory(MonotonicClock(), settings.control.lease_s)
        self._epoch = secrets.token_hex(8)
        self._changed = asyncio.Condition()
        explicit = settings.control.model_control == "explicit"
        self._deploying = Deploying(self._directory, self._tell, explicit=explicit)
        self.require = self._named
        self._health = Health()
        self._doors = doors.of(settings)
        self._server = self._doors.server()
        self._tasks: list[asyncio.Task[None]] = []
        self._experiments: ExperimentService | None = None
        self._streams = Streams()
        self._metrics_server: MetricsServer | None = None
        self._health_server: Server | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Read the ledger and open the ports. Raises: StartupError when either is not to be had."""
        ledger = self._ledger = Ledger(self._settings.ledger_path)
        try:
            self._experiments = self._with_ledger(ledger)
            control_pb2_grpc.add_ControlServicer_to_server(self, self._server)
            experiments_pb2_grpc.add_ExperimentServiceServicer_to_server(self._experiments, self._server)
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
            reflector = ReflectionServicer((*SERVICES, reflection.SERVICE_NAME))
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflector, self._server)
            self._bind(self._experiments, ledger)
        except OSError as error:
            ledger.close()
            ports = (self._settings.port, self._settings.metrics_port, self._settings.health_port)
            taken = ", ".join(str(port) for port in ports if port)
            raise StartupError(f"control: one of the ports {taken} is taken ({error})") from error
        except NotServing as error:
            ledger.close()
            raise StartupError(f"control.ledger: {ledger.path}: {error}") from error
        self._health.say(LIVENESS, serving=True)
        self._health.say(READINESS, serving=False)
        self._health.say("", serving=True)
        await self._server.start()
        if self._health_server is not None:
            await self._health_server.start()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._get_ready(self._experiments), name="get-ready"),
            loop.create_task(self._expire_leases(), name="expire-leases"),
            loop.create_task(self._experiments.run(), name="look-at-experiments"),
        ]
        log.info("control serves on port %d, its ledger is %s", self.port, ledger.path)

    async def stop(self) -> None:
        """Close the port; followers and replicas keep what they have and come back by themselves.

        That this process is there is said until the end.
        """
        self._health.say(READINESS, serving=False)
        self._health.say("", serving=False)
        await end(*self._tasks)
        await self._deploying.close()
        await self._server.stop(0.2)
        if self._experiments is not None:
            await self._experiments.close()
            self._ledger.close()
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.close)
        if self._health_server is not None:
            await self._health_server.stop(None)

    def _bind(self, service: ExperimentService, ledger: Ledger) -> None:
        """Raises: OSError when a port is taken."""
        settings = self._settings
        self.port = self._doors.open(self._server, f"{settings.host}:{settings.port}")
        if settings.metrics_port:
            registry = CollectorRegistry()
            parts = self._directory, service, ledger, self._streams, self._doors.access.refused
            registry.register(Scraped(lambda: scrape(*parts)))
            self._metrics_server = MetricsServer(settings.host, settings.metrics_port, registry)
        if settings.health_port:
            self._health_server = self._doors.health_server(self._health, f"{settings.host}:{settings.health_port}")

    async def _get_ready(self, service: ExperimentService) -> None:
        """Once the ledger takes a write, whoever is sent here stays: discovery goes on without it."""
        await service.until_writable()
        self._health.say(READINESS, serving=True)

    async def serve_until(self, stopped: asyncio.Event) -> None:
        """Serve until somebody sets `stopped`."""
        async with self:
            await stopped.wait()

    async def Register(
        self, messages: AsyncIterator[control_pb2.Registration], rpc: Call
    ) -> AsyncIterator[control_pb2.Lease]:
        lease = control_pb2.Lease(lease_ms=int(self._settings.lease_s * 1000))
        async for registration in messages:
            try:
                caller = self._doors.access.identify(rpc)  # that it may was asked at the door
                caller.assert_serves(registration.spec.name)
                changed = self._directory.register(registration, caller.name)
            except HeadraceError as error:
                self._streams.refused[type(error).__name__] += 1
                await rpc.abort(grpc.StatusCode[error.code], str(error))
            if changed:
                await self._tell()
            yield lease

    async def Follow(self, request: control_pb2.FollowRequest, rpc: Call) -> AsyncIterator[control_pb2.Snapshot]:
        self._streams.followers += 1
        try:
            with self._deploying.following(request.gateway_id):
                while True:
                    sent = self._directory.version
                    yield self._directory.snapshot(self._epoch)
                    await self._wait_for_change(sent)
        finally:
            self._streams.followers -= 1

    async def Describe(self, request: control_pb2.DescribeRequest, rpc: Call) -> control_pb2.Snapshot:
        return self._directory.snapshot(self._epoch)

    @answering("gateway")
    async def Load(self, request: control_pb2.LoadRequest, who: str) -> control_pb2.LoadResponse:
        self._deploying.assert_explicit()
        log.info("'%.64s' asks through '%s' to load '%.256s'", request.asked_by, who, request.model)
        versions = await self._deploying.load(request.model)
        return control_pb2.LoadResponse(versions=versions, snapshot_version=self._directory.version, epoch=self._epoch)

    @answering("gateway")
    async def Unload(self, request: control_pb2.UnloadRequest, who: str) -> control_pb2.UnloadResponse:
        self._deploying.assert_explicit()
        log.info("'%.64s' asks through '%s' to unload '%.256s'", request.asked_by, who, request.model)
        await self._deploying.unload(request.model)
        return control_pb2.UnloadResponse(snapshot_version=self._directory.version, epoch=self._epoch)

    @answering("gateway")
    async def Drained(self, request: control_pb2.DrainedRequest, who: str) -> control_pb2.DrainedResponse:
        self._deploying.drained(request.gateway_id, request.act)
        return control_pb2.DrainedResponse()

    async def Deploy(
        self, messages: AsyncIterator[control_pb2.DeployReport], rpc: Call
    ) -> AsyncIterator[control_pb2.DeployOrder]:
        try:
            caller = self._doors.access.identify(rpc)
            async with contextlib.aclosing(self._deploying.attach(messages, caller)) as orders:
                async for order in orders:
                    yield order
        except HeadraceError as error:
            await rpc.abort(grpc.StatusCode[error.code], str(error))

    def _with_ledger(self, ledger: Ledger) -> ExperimentService:
        """The experiments of a ledger, and who answers because of them: known before anybody follows."""
        trials = Trials(ledger, self._wall_us, self._cuts)
        trials.declare(drafting.base_of(name, model) for name, model in self._models.items())
        for policy in trials.policies().values():
            self._directory.set_policy(policy)
        return ExperimentService(trials, self._directory, self._models, require=self._named, tell=self._tell)

    def _named(self, call: Call, permission: str) -> str:
        """The name of a caller who may. Raises: Unauthenticated, NotPermitted."""
        return self._doors.access.require(call, permission).name

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
