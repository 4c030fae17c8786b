"""Deployers: what starts replicas and keeps them running. Ray Serve, or plain processes on this machine.

The cluster on one machine composes one of them with control and a gateway; nobody else starts a replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from grpc import aio

from headrace import doors
from headrace.channel import connect
from headrace.children import Child
from headrace.config import Settings
from headrace.credentials import NOBODY, ClientCredentials
from headrace.serving.health import is_live
from headrace.serving.weights import FoundModel
from headrace.v1 import control_pb2, control_pb2_grpc


class Deployer(Protocol):
    """Starts the replicas of model versions, replaces those that die, stops them all."""

    async def deploy(self, models: Sequence[FoundModel]) -> None:
        """Start the replicas of these versions. Raises: StartupError. They register with control when ready."""
        ...

    async def stop(self) -> None:
        """Drain and stop everything this deployer has started."""
        ...


class LocalDeployer:
    """One process a replica, on this machine."""

    def __init__(
        self, settings: Settings, control_address: str, config_file: Path, environment: Mapping[str, str]
    ) -> None:
        self._settings = settings
        self._control_address = control_address
        self._config_file = config_file
        self._environment = environment
        self._credentials = doors.credentials(settings)
        self.children: list[Child] = []

    async def deploy(self, models: Sequence[FoundModel]) -> None:
        for model in models:
            for number in range(self._settings.model(model.name).least_replicas):
                child = self._child(model, number)
                self.children.append(child)
                await child.start()

    async def stop(self) -> None:
        await asyncio.gather(*(child.stop() for child in self.children))

    def _child(self, model: FoundModel, number: int) -> Child:
        name = f"{model.name}-{model.version}"
        arguments = ["replica", "--model-dir", str(model.directory), "--control", self._control_address]
        check = ReplicaCheck(self._control_address, name, self._credentials)
        child = Child(
            f"replica {name}-{number}",
            [*arguments, "--config", str(self._config_file)],
            environment=self._environment,
            check=lambda: check.passes(child.pid),
        )
        return child


class ReplicaCheck:
    """Whether a replica's process is alive and answering, asked through control, which knows its port."""

    def __init__(self, control_address: str, name: str, credentials: ClientCredentials = NOBODY) -> None:
        self._control_address = control_address
        self._credentials = credentials
        self._tokenless = credentials.tokenless
        self._name = name
        self._listed_pid: int | None = None

    async def passes(self, pid: int | None) -> bool:
        """False when it answers no health check or says it is not well, or has lost its lease while control answers.

        A process that is still starting, and an absent control, count as fine: neither is a reason to kill.
        """
        try:
            async with connect(self._control_address, self._credentials) as channel:
                stub = control_pb2_grpc.ControlStub(channel)
                snapshot = await stub.Describe(control_pb2.DescribeRequest(), timeout=1)
        except aio.AioRpcError:
            return True
        mine = f"{self._name}-{pid}-"
        endpoint = next((r.endpoint for r in snapshot.replicas if r.replica_id.startswith(mine)), None)
        if endpoint is None:
            return self._listed_pid != pid
        self._listed_pid = pid
        return await is_live(endpoint, self._tokenless)
