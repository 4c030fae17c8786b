"""The gateway process: build → start → serve → drain → stop. No Ray, no torch.

Composes the parts and owns their lives; decides nothing about a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from typing import Final, Self

from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer
from prometheus_client import CollectorRegistry
from tritonclient.grpc import service_pb2_grpc

from headrace import doors
from headrace.config import GatewaySettings, Settings, TelemetrySettings
from headrace.core.clock import MonotonicClock
from headrace.errors import StartupError
from headrace.gateway import peers, siblings
from headrace.gateway.admission import Admission
from headrace.gateway.entry import Entry, bounds
from headrace.gateway.external_scaler import ExternalScaler
from headrace.gateway.idempotency import Repeats
from headrace.gateway.link import Sender
from headrace.gateway.model_control import ModelControl
from headrace.gateway.models import Models
from headrace.gateway.observer import Observer
from headrace.gateway.peers import Peers
from headrace.gateway.pressure import Pressure
from headrace.gateway.queued import Queued
from headrace.gateway.readiness import Readiness, Served
from headrace.gateway.risk import RiskServicer
from headrace.gateway.scrape import remembered, scrape, scrape_held
from headrace.gateway.servicer import InferenceServicer
from headrace.gateway.shadow import Surroundings
from headrace.gateway.snapshot import SnapshotFollower
from headrace.gateway.telling import PairTeller
from headrace.gateway.unloading import DrainTeller
from headrace.keda import externalscaler_pb2_grpc
from headrace.permissions import INFERENCE, RISK, SCALER
from headrace.rpc import health
from headrace.rpc.age import Age
from headrace.rpc.server import Server
from headrace.tasks import end
from headrace.telemetry import lag
from headrace.telemetry.context import Sampling
from headrace.telemetry.form import Attributes
from headrace.telemetry.http import MetricsServer, Page
from headrace.telemetry.metrics import GatewayMetrics
from headrace.telemetry.request_log import RequestLog
from headrace.telemetry.tracing import Tracer
from headrace.v1 import risk_pb2_grpc

log = logging.getLogger(__name__)

HEARING_S: Final = 0.5
"""What control may take to say which models there are before callers are let in. Longer, and probes would wait."""
GOODBYE_S: Final = 1.0
"""What callers may take to hear that they should call elsewhere, before they are refused."""
LAST_WORDS_S: Final = 1.0
"""What control may take to hear the last pairs of a gateway that stops."""


class Gateway:
    """One gateway. `async with Gateway(settings, control) as gateway` starts it, and drains it at the end."""

    def __init__(self, settings: Settings, control_address: str) -> None:
        self._settings = settings
        self._doors = doors.of(settings)
        self.gateway_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._clock = MonotonicClock()
        self._registry = CollectorRegistry()
        self._metrics = GatewayMetrics(self._registry)
        self._tracer = Tracer("headrace-gateway", settings.telemetry, self.gateway_id, _address(settings.gateway))
        self._requests = RequestLog(lambda: self.models.names())  # noqa: PLW0108  there are none yet
        sampling = _sampling(settings.telemetry)
        observer = Observer(self._tracer, self._metrics, self._requests, self._clock, sampling)
        self._pressure = Pressure()
        sender = Sender(self.gateway_id, self._doors.credentials)
        self.teller = PairTeller(control_address, sender)
        around = Surroundings(sender, self._clock, self._pressure, observer.batch)
        self.models = Models(settings, around, self._metrics.forget, self.teller.notes)
        self.admission = Admission(settings.gateway.max_riders, self._clock, self._pressure)
        self.follower = SnapshotFollower(control_address, self.gateway_id, self.models.apply, sender.credentials)
        self._health = health.Health()
        self._drains = DrainTeller(control_address, sender, self.models)
        model_control = ModelControl(settings.control, control_address, sender.credentials, self.models)
        repeats = Repeats(settings.gateway, self._clock)
        self._servicer = InferenceServicer(
            self.models, self.admission, observer, settings.gateway, model_control, repeats
        )
        self.streams, self.sequences = self._servicer.streams, self._servicer.sequences
        self._risk = RiskServicer(self.models, self.admission, observer, settings.risk, repeats)
        self.queued = Queued(self.models)
        self._peers = Peers(settings.gateway, self.gateway_id, lambda: self.queued.mean_s)
        served = Served(self.models, self._clock, settings.gateway.required_models, settings.control.lease_s)
        self._readiness = Readiness(self._health, self.models, self.admission, served, self._risk.ready)
        self._entry = Entry(settings, self._doors.access)
        self._server = self._doors.server(
            share_port=settings.gateway.processes > 1,
            age=_age(settings.gateway),
            rule_of=self._entry.rule_of,
            bounds=bounds(settings.gateway),
            compression=settings.gateway.compression,
        )
        self._health_server: Server | None = None
        parts = self.models, self._tracer, self._pressure, self.follower, self.teller
        self._metrics.expose(lambda: scrape(*parts, self._doors.access.refused + observer.refused))
        self._metrics.expose(lambda: self._entry.figures(self._server.limited))
        self._metrics.expose(lambda: scrape_held(self.models, self.streams, self.sequences))
        self._metrics.expose(lambda: remembered(repeats))
        self._tasks: list[asyncio.Task[None]] = []
        self._metrics_server: MetricsServer | None = None
        self.port = 0
        self.metrics_port = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open the ports and begin to follow control. Raises: StartupError when a port is taken."""
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self._servicer, self._server)
        risk_pb2_grpc.add_RiskServiceServicer_to_server(self._risk, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        externalscaler_pb2_grpc.add_ExternalScalerServicer_to_server(ExternalScaler(self._peers), self._server)
        names = (INFERENCE, RISK, SCALER, health.SERVICE, reflection.SERVICE_NAME)
        reflector = ReflectionServicer(names)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflector, self._server)
        self._bind()
        self._tracer.start()
        self._requests.start()
        self._readiness.open()
        if self._health_server is not None:
            await self._health_server.start()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self.follower.run(), name="follow-control"),
            loop.create_task(self.teller.run(), name="tell-control"),
            loop.create_task(self._drains.run(), name="tell-drained"),
            loop.create_task(self._readiness.follow(), name="follow-readiness"),
            loop.create_task(lag.watch(self._metrics.loop_lag), name="watch-lag"),
            loop.create_task(self._pressure.watch(), name="watch-pressure"),
            loop.create_task(self.queued.watch(), name="watch-queues"),
        ]
        await self._hear_of_models()
        await self._server.start()
        log.info("gateway %s serves on port %d", self.gateway_id, self.port)

    async def _hear_of_models(self) -> None:
        """Callers who are here before the first snapshot wait for it with their connection, rather than be refused."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEARING_S):
                while not self.models.informed:  # noqa: ASYNC110  a moment at the start is not worth a signal
                    await asyncio.sleep(0.005)

    def _bind(self) -> None:
        settings = self._settings.gateway
        metrics_port = settings.metrics_port and settings.metrics_port + settings.index
        health_port = settings.health_port and settings.health_port + settings.index
        try:
            self.port = self._doors.open(self._server, f"{settings.host}:{settings.port}")
            self._metrics_server = MetricsServer(settings.host, metrics_port, self._registry, self._pages())
            if health_port:
                self._health_server = self._doors.health_server(self._health, f"{settings.host}:{health_port}")
        except OSError as error:
            ports = ", ".join(str(port) for port in (settings.port, metrics_port, health_port) if port)
            raise StartupError(f"gateway: one of the ports {ports} is taken ({error})") from error
        self.metrics_port = self._metrics_server.port

    def _pages(self) -> dict[str, Page]:
        """What else the metrics port tells: to the gateways that share the port, and to who starts them."""
        statistics = self._servicer.own_statistics
        return {
            siblings.PAGE: lambda: (200, statistics("", "").SerializeToString()),
            peers.PAGE: self._peers.page,
            "/ready": lambda: (200 if self.admission.open and self.models.all_ready() else 503, b""),
        }

    async def wait_ready(self, timeout_s: float) -> None:
        """Until every model control knows of has a ready replica. Raises: StartupError after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.models.all_ready():  # noqa: ASYNC110  many parts' state; none of them signals it
                    await asyncio.sleep(0.02)
        except TimeoutError as error:
            raise StartupError(f"no model became ready within {timeout_s:g} s") from error

    async def stop(self) -> None:
        """Drain: health turns NOT_SERVING, callers are told to go, new work is refused, what was accepted is answered.

        Then the port closes. That this process is there is said until the end.
        """
        self._readiness.close()
        await self._server.say_goodbye(GOODBYE_S)
        self.admission.open = False
        if not await self.admission.wait_empty(self._settings.gateway.drain_s):
            log.warning("%d requests were not answered within the drain time", self.admission.held)
        self.streams.end()
        await self._server.stop(1.0)
        await end(*self._tasks)
        await self.models.close()
        await self.teller.last_words(LAST_WORDS_S)
        await asyncio.to_thread(self._tracer.close)
        await asyncio.to_thread(self._requests.close)
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.close)
        if self._health_server is not None:
            await self._health_server.stop(None)

    async def serve_until(self, stopped: asyncio.Event) -> None:
        """Serve until somebody sets `stopped`."""
        async with self:
            await stopped.wait()


def _sampling(settings: TelemetrySettings) -> Sampling:
    return (
        Sampling(settings.sampling, settings.sampling_by_caller) if settings.enabled else Sampling(0.0, by_caller=False)
    )


def _age(settings: GatewaySettings) -> Age | None:
    """How old a client's connection may become; None = as old as it likes."""
    if not settings.max_connection_age_s:
        return None
    return Age(settings.max_connection_age_s, settings.max_connection_age_grace_s)


def _address(settings: GatewaySettings) -> Attributes:
    """Where callers reach this process, as far as it can know."""
    anywhere = settings.host in ("0.0.0.0", "::", "[::]")  # noqa: S104  read, not bound
    host = socket.gethostname() if anywhere else settings.host
    return ("server.address", host), ("server.port", settings.port)
