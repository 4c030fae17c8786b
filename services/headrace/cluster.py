"""A whole cluster on one machine: control and gateway as processes of their own, replicas by a deployer.

What `headrace serve` and `headrace demo` run. Composes and supervises; nothing of a request passes here.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import signal
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import BaseModel
from rich.console import Console

from headrace import doors
from headrace.channel import connect
from headrace.children import Child
from headrace.config import OTEL_READ, PREFIX, Caller, Settings
from headrace.core.instead import prior_row
from headrace.errors import StartupError
from headrace.gateway import wire
from headrace.serving import weights
from headrace.serving.deploy import Deployer, LocalDeployer
from headrace.serving.orders import Orders
from headrace.serving.weights import FoundModel
from headrace.tasks import end
from headrace.telemetry import pages

READY_TIMEOUT_S = 120.0


OURS: Final = "cluster"
"""The caller that our own processes are: replicas, gateways and their pairs are known by it."""


class Cluster:
    """`async with Cluster(settings) as cluster`: ready inside, drained and gone after."""

    def __init__(self, settings: Settings) -> None:
        self._directories = [weights.shipped_models(), *settings.model_dirs]
        self.models = weights.discover(self._directories, settings.only)
        self.settings = _with_ports(settings)
        gateway, control = self.settings.gateway, self.settings.control
        _assert_apart(self.settings)
        _assert_priors_fit(self.settings, self.models)
        self.address = f"{gateway.host}:{gateway.port}"
        self.control_address = f"{control.host}:{control.port}"
        self.metrics_addresses = [f"{gateway.host}:{gateway.metrics_port + i}" for i in range(gateway.processes)]
        self._folder = tempfile.TemporaryDirectory(prefix="headrace-")
        self.settings = _with_token(self.settings, Path(self._folder.name) / "token")
        self.credentials = doors.of(self.settings).credentials
        self.config_file = Path(self._folder.name) / "headrace.yaml"
        # The children read this file alone: what the environment said is in it already.
        self.config_file.write_text(self.settings.model_dump_json(exclude={"engine", "model_dirs", "only"}))
        environment = {
            name: value
            for name, value in os.environ.items()
            if not (name.startswith(PREFIX) and "__" in name) and name not in OTEL_READ
        }
        arguments = ["--config", str(self.config_file)]
        # No payment waits for control; on a machine that it shares with replicas it had better wait for them.
        self.control = Child("control", ["control", *arguments], environment=environment, niceness=10)
        command = ["gateway", *arguments, "--control", self.control_address]
        self.gateways = [
            Child(f"gateway-{index}", command, environment={**environment, f"{PREFIX}GATEWAY__INDEX": str(index)})
            for index in range(gateway.processes)
        ]
        self.deployer = self._deployer(environment)
        self._taking_orders: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """The gateways drain first, then the replicas, then control."""
        if self._taking_orders is not None:
            await end(self._taking_orders)
        drain_s = self.settings.gateway.drain_s + 10
        await asyncio.gather(*(child.stop(drain_s) for child in self.gateways))
        await self.deployer.stop()
        await self.control.stop()
        self._folder.cleanup()

    async def _start(self) -> None:
        await self.control.start()
        await asyncio.gather(*(child.start() for child in self.gateways))
        await self.deployer.deploy(self.models)
        await self._wait_ready()
        if self.settings.control.model_control == "explicit":
            orders = Orders(self.control_address, self.deployer, self._directories, self.models, self.credentials)
            self._taking_orders = asyncio.get_running_loop().create_task(orders.run(), name="take-orders")

    async def _wait_ready(self) -> None:
        """Until every gateway says that every model is ready. Raises: StartupError."""
        deadline = asyncio.get_running_loop().time() + READY_TIMEOUT_S
        async with connect(self.address, self.credentials) as channel:
            while asyncio.get_running_loop().time() < deadline:
                for child in self._children():
                    child.assert_starting()
                if await self._ready_models(channel) and await self._ready_gateways():
                    return
                await asyncio.sleep(0.05)
        raise StartupError(f"the models did not become ready within {READY_TIMEOUT_S:g} s")

    async def _ready_models(self, channel: aio.Channel) -> bool:
        health = health_pb2_grpc.HealthStub(channel)
        try:
            for model in self.models:
                answer = await health.Check(health_pb2.HealthCheckRequest(service=model.name), timeout=1)
                if answer.status != health_pb2.HealthCheckResponse.SERVING:
                    return False
        except grpc.RpcError:
            return False
        return True

    async def _ready_gateways(self) -> bool:
        """A channel reaches one of them; the others are asked on the ports that are theirs alone."""
        ready = await asyncio.gather(*(asyncio.to_thread(_is_ready, address) for address in self.metrics_addresses))
        return all(ready)

    def _children(self) -> list[Child]:
        replicas = self.deployer.children if isinstance(self.deployer, LocalDeployer) else []
        return [self.control, *self.gateways, *replicas]

    def _deployer(self, environment: dict[str, str]) -> Deployer:
        if self.settings.engine == "local":
            return LocalDeployer(self.settings, self.control_address, self.config_file, environment)
        from headrace.serving.deploy_ray import RayDeployer  # noqa: PLC0415  a laptop without Ray has the local engine

        return RayDeployer(self.settings, self.control_address)


async def serve_until(settings: Settings, stopped: asyncio.Event) -> None:
    """Run a cluster until somebody sets `stopped`; then drain."""
    console = Console()
    with console.status(f"starting ({settings.engine})"):
        cluster = Cluster(settings)
        await cluster.__aenter__()
    try:
        _take_back_signals(stopped)
        metrics = ", ".join(f"http://{address}" for address in cluster.metrics_addresses)
        for model in cluster.models:
            console.print(f"  {model.name} {model.version}", style="dim", highlight=False)
        console.print(
            f"headrace serves on [bold]{cluster.address}[/] (gRPC), metrics on {metrics}",
            highlight=False,
        )
        console.print("Ctrl-C drains and stops.", style="dim")
        await stopped.wait()
    finally:
        with console.status("draining"):
            await cluster.__aexit__()
    console.print("stopped")


def _take_back_signals(stopped: asyncio.Event) -> None:
    """Ray installs handlers of its own; ours drain."""
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)


def _with_ports(settings: Settings) -> Settings:
    """Port 0 becomes a free port now: the children must agree on it."""
    gateway, control = settings.gateway, settings.control
    return settings.model_copy(
        update={
            "gateway": gateway.model_copy(
                update={
                    "port": gateway.port or _free_port(gateway.host),
                    "metrics_port": gateway.metrics_port or _free_ports(gateway.host, gateway.processes),
                }
            ),
            "control": control.model_copy(
                update={"port": control.port or _free_port(control.host), "ledger": control.ledger_path}
            ),
            "telemetry": settings.telemetry.model_copy(update={"trace_dir": settings.telemetry.trace_dir.resolve()}),
            **_with_absolute_paths(settings),
        }
    )


def _with_absolute_paths(settings: Settings) -> dict[str, Any]:
    """Files of TLS and tokens: Ray's actors work in folders of their own."""

    def absolute(section: BaseModel, *names: str) -> BaseModel:
        paths = {name: path.resolve() for name in names if (path := getattr(section, name)) is not None}
        return section.model_copy(update=paths)

    return {
        "tls": absolute(settings.tls, "certificate", "key", "authorities"),
        "access": absolute(settings.access, "token_file"),
    }


def _with_token(settings: Settings, path: Path) -> Settings:
    """The cluster's own processes know each other by a token that lives as long as they do. Raises: StartupError."""
    access = settings.access
    if access.mode == "open" or access.token_file is not None:
        return settings
    if any(caller.name == OURS for caller in access.callers):
        raise StartupError(f"access.callers: '{OURS}' is the name of this cluster's own processes")
    token = secrets.token_urlsafe(32)
    path.touch(mode=0o600)
    path.write_text(token)
    digest = hashlib.sha256(token.encode()).hexdigest()
    ours = Caller(name=OURS, token_sha256=digest, may=("gateway", "replica"))
    return settings.model_copy(
        update={"access": access.model_copy(update={"callers": (*access.callers, ours), "token_file": path})}
    )


def _assert_apart(settings: Settings) -> None:
    """Raises: StartupError when two processes of this machine would ask for the same port."""
    gateway, control = settings.gateway, settings.control
    taken: dict[int, str] = {}
    for name, what, first, count in (
        ("gateway.metrics_port", "one of the gateways' metrics ports", gateway.metrics_port, gateway.processes),
        ("gateway.health_port", "one of the gateways' health ports", gateway.health_port, gateway.processes),
        ("gateway.port", "the gateway's", gateway.port, 1),
        ("control.port", "control's", control.port, 1),
        ("control.metrics_port", "control's metrics port", control.metrics_port, 1),
        ("control.health_port", "control's health port", control.health_port, 1),
    ):
        for port in range(first, first + count) if first else ():
            if port in taken:
                raise StartupError(f"{name}: {port} is {taken[port]}")
            taken[port] = what


def _assert_priors_fit(settings: Settings, models: Sequence[FoundModel]) -> None:
    """Raises: StartupError for a prior that could never be given."""
    for model in models:
        fallback = settings.model(model.name).fallback
        if fallback is not None and fallback.prior:
            try:
                prior_row(wire.spec(weights.wire_spec(model)), fallback.prior)
            except ValueError as error:
                raise StartupError(f"models.{model.name}.fallback: {error}") from error


def _free_port(host: str) -> int:
    return _free_ports(host, 1)


def _free_ports(host: str, count: int) -> int:
    """The first of so many free ports in a row. Raises: StartupError when none is found."""
    for _ in range(50):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
            first = 0
            for index in range(count):
                probe = stack.enter_context(socket.socket())
                probe.bind((host, first and first + index))
                first = first or int(probe.getsockname()[1])
            return first
    raise StartupError(f"no {count} free ports in a row on {host}")


def _is_ready(address: str) -> bool:
    try:
        pages.fetch(address, "/ready", 1)
    except OSError:
        return False
    return True
