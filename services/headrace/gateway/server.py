"""The gateway process: build → start → serve → drain → stop. No Ray, no torch.

Composes the parts and owns their lives; decides nothing about a request.
"""

from __future__ import annotations

import asyncio
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
from headrace.gateway import siblings
from headrace.gateway.admission import Admission
from headrace.gateway.link import Sender
from headrace.gateway.models import Models
from headrace.gateway.observer import Observer
from headrace.gateway.pressure import Pressure
from headrace.gateway.risk import RISK_SERVICE, RiskServicer
from headrace.gateway.scrape import scrape
from headrace.gateway.servicer import InferenceServicer
from headrace.gateway.shadow import Surroundings
from headrace.gateway.snapshot import SnapshotFollower
from headrace.gateway.telling import PairTeller
from headrace.rpc import health
from headrace.telemetry import lag
from headrace.telemetry.context import Sampling
from headrace.telemetry.form import Attributes
from headrace.telemetry.http import MetricsServer, Page
from headrace.telemetry.metrics import GatewayMetrics
from headrace.telemetry.request_log import RequestLog
from headrace.telemetry.tracing import Tracer
from headrace.v1 import risk_pb2_grpc

log = logging.getLogger(__name__)

INFERENCE_SERVICE: Final = "inference.GRPCInferenceService"
LAST_WORDS_S: Final = 1.0
"""What control may take to hear the last pairs of a gateway that stops."""
HEALTH_PERIOD_S: Final = 0.1
"""How often readiness is compared with what health says: an eviction shows up within this."""


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
        self._requests = RequestLog()
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
        self._servicer = InferenceServicer(self.models, self.admission, observer, settings.gateway)
        self._risk = RiskServicer(self.models, self.admission, observer, settings.risk)
        self._server = self._doors.server(share_port=settings.gateway.processes > 1)
        parts = self.models, self._tracer, self._pressure, self.follower, self.teller
        self._metrics.expose(lambda: scrape(*parts, self._doors.access.refused))
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
        names = (INFERENCE_SERVICE, RISK_SERVICE, health.SERVICE)
        reflector = ReflectionServicer((*names, reflection.SERVICE_NAME))
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflector, self._server)
        self._bind()
        self._tracer.start()
        self._requests.start()
        self._set_health(dict.fromkeys(("", INFERENCE_SERVICE, RISK_SERVICE), False))
        await self._server.start()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self.follower.run(), name="follow-control"),
            loop.create_task(self.teller.run(), name="tell-control"),
            loop.create_task(self._follow_readiness(), name="follow-readiness"),
            loop.create_task(lag.watch(self._metrics.loop_lag), name="watch-lag"),
            loop.create_task(self._pressure.watch(), name="watch-pressure"),
        ]
        log.info("gateway %s serves on port %d", self.gateway_id, self.port)

    def _bind(self) -> None:
        settings = self._settings.gateway
        metrics_port = settings.metrics_port and settings.metrics_port + settings.index
        try:
            self.port = self._doors.open(self._server, f"{settings.host}:{settings.port}")
            self._metrics_server = MetricsServer(settings.host, metrics_port, self._registry, self._pages())
        except OSError as error:
            raise StartupError(f"gateway: port {settings.port} or {metrics_port} is taken ({error})") from error
        self.metrics_port = self._metrics_server.port

    def _pages(self) -> dict[str, Page]:
        """What else the metrics port tells: to the gateways that share the port, and to who starts them."""
        statistics = self._servicer.own_statistics
        return {
            siblings.PAGE: lambda: (200, statistics("", "").SerializeToString()),
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
        """Drain: health turns NOT_SERVING, new work is refused, what was accepted is answered, the port closes."""
        self.admission.open = False
        self._set_health(dict.fromkeys(self._health_names(), False))
        if not await self.admission.wait_empty(self._settings.gateway.drain_s):
            log.warning("%d requests were not answered within the drain time", self.admission.held)
        await self._server.stop(1.0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.models.close()
        await self.teller.last_words(LAST_WORDS_S)
        await asyncio.to_thread(self._tracer.close)
        await asyncio.to_thread(self._requests.close)
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.close)

    async def serve_until(self, stopped: asyncio.Event) -> None:
        """Serve until somebody sets `stopped`."""
        async with self:
            await stopped.wait()

    # Readiness ----------------------------------------------------------------------------------------------------

    async def _follow_readiness(self) -> None:
        shown: dict[str, bool] = {}
        failing = False
        while True:
            try:
                now = self._readiness()
                if now != shown:
                    self._set_health({name: ready for name, ready in now.items() if shown.get(name) != ready})
                    shown = now
                await self.models.retire()
                failing = False
            except Exception:  # health that stands still would lie, about every model, for ever
                if not failing:
                    log.exception("readiness could not be followed")
                failing = True
            await asyncio.sleep(HEALTH_PERIOD_S)

    def _readiness(self) -> dict[str, bool]:
        ready = self.admission.open and self.models.all_ready()
        names = {model.name: self.admission.open and bool(model.ready_versions()) for model in self.models}
        risk = self.admission.open and self._risk.ready()
        return {"": ready, INFERENCE_SERVICE: ready, RISK_SERVICE: risk, **names}

    def _health_names(self) -> list[str]:
        return list(self._readiness())

    def _set_health(self, serving: dict[str, bool]) -> None:
        for name, good in serving.items():
            self._health.say(name, serving=good)


def _sampling(settings: TelemetrySettings) -> Sampling:
    return (
        Sampling(settings.sampling, settings.sampling_by_caller) if settings.enabled else Sampling(0.0, by_caller=False)
    )


def _address(settings: GatewaySettings) -> Attributes:
    """Where callers reach this process, as far as it can know."""
    anywhere = settings.host in ("0.0.0.0", "::", "[::]")  # noqa: S104  read, not bound
    host = socket.gethostname() if anywhere else settings.host
    return ("server.address", host), ("server.port", settings.port)
