"""Deployers: what starts replicas and keeps them running. Ray Serve, or plain processes on this machine.

The cluster on one machine composes one of them with control and a gateway; nobody else starts a replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from grpc import aio

from headrace import doors
from headrace.channel import connect
from headrace.children import Child
from headrace.config import Settings
from headrace.credentials import NOBODY, ClientCredentials
from headrace.errors import StartupError
from headrace.serving.health import is_live
from headrace.serving.weights import FoundModel
from headrace.v1 import control_pb2, control_pb2_grpc

LOOK_S: Final = 0.05
"""How often control is asked whether a version that loads is READY."""


class Deployer(Protocol):
    """Starts the replicas of model versions, replaces those that die, stops them all."""

    async def deploy(self, models: Sequence[FoundModel]) -> None:
        """Start the replicas of these versions. Raises: StartupError. They register with control when ready."""
        ...

    async def load(self, model: FoundModel) -> None:
        """Have a version READY at control, whether it runs already or not.

        Raises: StartupError, one line that says why it can't be. Whatever is raised, nothing of it runs then.
        """
        ...

    async def unload(self, model: str, versions: Collection[str]) -> None:
        """Drain and stop the replicas of these versions; none of them is started again."""
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
        self._children: dict[tuple[str, str], list[Child]] = {}
        self._stopped = False

    @property
    def children(self) -> list[Child]:
        return [child for children in self._children.values() for child in children]

    async def deploy(self, models: Sequence[FoundModel]) -> None:
        for model in models:
            await self._start(model)

    async def load(self, model: FoundModel) -> None:
        key = model.name, model.version
        if any(child.refused for child in self._children.get(key, ())):
            await self._end(key)  # it serves no more, and nobody would start it again
        try:
            if key not in self._children:
                await self._start(model)
            await self._until_ready(key)
        except Exception:  # also where the machine has no room for another process
            await self._end(key)
            raise

    async def unload(self, model: str, versions: Collection[str]) -> None:
        await asyncio.gather(*(self._end((model, version)) for version in versions))

    async def stop(self) -> None:
        self._stopped = True
        await asyncio.gather(*(child.stop() for child in self.children))

    async def _start(self, model: FoundModel) -> None:
        """Raises: StartupError."""
        children = self._children[model.name, model.version] = []
        for number in range(self._settings.model(model.name).least_replicas):
            if self._stopped:
                raise StartupError("the cluster is stopping")
            child = self._child(model, number)
            children.append(child)
            await child.start()

    async def _end(self, key: tuple[str, str]) -> None:
        """Out of the table first: what is being stopped is not ours to start again."""
        await asyncio.gather(*(child.stop() for child in self._children.pop(key, ())))

    async def _until_ready(self, key: tuple[str, str]) -> None:
        """Until control says that each replica is READY. Without control nobody knows, and it is asked again.

        Raises: StartupError when one can't start.
        """
        children = {child: child.restarts for child in self._children[key]}
        async with connect(self._control_address, self._credentials) as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            while not await self._ready(stub, key, children):
                for child, restarts in children.items():
                    child.assert_starting(restarts)
                if self._stopped:
                    raise StartupError("the cluster is stopping")
                await asyncio.sleep(LOOK_S)

    @staticmethod
    async def _ready(stub: control_pb2_grpc.ControlStub, key: tuple[str, str], children: Collection[Child]) -> bool:
        try:
            snapshot = await stub.Describe(control_pb2.DescribeRequest(), timeout=1)
        except aio.AioRpcError:
            return False
        ready = [one.replica_id for one in snapshot.replicas if one.state == control_pb2.REPLICA_STATE_READY]
        mine = [f"{'-'.join(key)}-{child.pid}-" for child in children]
        return all(any(one.startswith(prefix) for one in ready) for prefix in mine)

    def _child(self, model: FoundModel, number: int) -> Child:
        name = f"{model.name}-{model.version}"
        arguments = ["replica", "--model-dir", str(model.directory), "--control", self._control_address]
        check = ReplicaCheck(self._control_address, name, self._credentials)
        child = Child(
            f"replica {name}-{number}",
            [*arguments, "--config", str(self._config_file)],
            environment=self._environment,
            check=lambda: check.passes(child.pid),
            last_words=self._config_file.with_name(f"{name}-{number}.last-words"),
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
