"""Control, a deployer with fake replicas, and a gateway, where models are loaded by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from grpc import aio
from tests import adder
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.client import request
from headrace.config import Settings
from headrace.control.server import ControlServer
from headrace.gateway.server import Gateway
from headrace.serving.orders import Orders
from headrace.testing.deployer import FakeDeployer
from headrace.testing.gateway import settings
from headrace.testing.replica import FakeReplica
from headrace.v1 import control_pb2, replica_pb2


class Adder(FakeReplica):
    """Answers as `tests.adder` does."""

    def _answer(self, asked: replica_pb2.PackedBatch) -> replica_pb2.PackedAnswer:
        x = np.frombuffer(asked.columns[0], "<f4").reshape(-1, 2)
        y = int(self.spec.version) * x.sum(1, dtype="<f4")
        return replica_pb2.PackedAnswer(columns=[y.tobytes()], status=bytes(asked.rows))


@dataclass
class Rig:
    """Whom a test talks to."""

    settings: Settings
    gateway: Gateway
    control: ControlServer
    deployer: FakeDeployer
    stub: Any
    attached: asyncio.Task[None]
    """The deployer's own task."""

    async def lose_control(self) -> None:
        await self.control.stop()
        self.control = ControlServer(self.settings)

    async def load(self, model: str = "adder", **more: Any) -> Any:
        asked = service_pb2.RepositoryModelLoadRequest(model_name=model, **more)
        return await self.stub.RepositoryModelLoad(asked, timeout=20)

    async def unload(self, model: str = "adder", **more: Any) -> Any:
        asked = service_pb2.RepositoryModelUnloadRequest(model_name=model, **more)
        return await self.stub.RepositoryModelUnload(asked, timeout=20)

    async def infer(self, version: str = "", number: float = 2, model: str = "adder") -> tuple[float, str]:
        """The answer, and the version that gave it."""
        asked = request(model, {"x": np.array([[number, 1]], np.float32)}, version=version)
        answer = await self.stub.ModelInfer(asked, timeout=10)
        return float(np.frombuffer(answer.raw_output_contents[0], "<f4")[0]), answer.model_version

    async def index(self) -> dict[str, tuple[str, str]]:
        """`adder`'s versions: state and reason."""
        found = await self.stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), timeout=5)
        return {one.version: (one.state, one.reason) for one in found.models if one.name == "adder"}

    async def names(self) -> set[str]:
        """Of all models in the index."""
        found = await self.stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), timeout=5)
        return {one.name for one in found.models}

    async def until(self, version: str, state: str) -> dict[str, tuple[str, str]]:
        return await until(self.index, lambda found: found.get(version, ("?", ""))[0] == state)

    async def states(self) -> dict[str, str]:
        return {version: state for version, (state, _) in (await self.index()).items()}


async def until(ask: Callable[[], Any], condition: Callable[[Any], bool]) -> Any:
    while not condition(found := await ask()):
        await asyncio.sleep(0.01)
    return found


def write(tmp_path: Path, *versions: int) -> Path:
    """A directory of models with these versions of the adder."""
    models = tmp_path / "models"
    models.mkdir(exist_ok=True)
    for version in versions:
        adder.write(models, version)
    return models


@asynccontextmanager
async def deploying(
    tmp_path: Path,
    *versions: int,
    attach: bool = True,
    loaded: bool = False,
    models: Path | None = None,
    make: Callable[[control_pb2.ModelSpec], FakeReplica] = Adder,
    **flags: Any,
) -> AsyncIterator[Rig]:
    """Nothing is loaded at first, unless `loaded`: of these versions of the adder, or of a directory of `models`."""
    models = models or write(tmp_path, *versions)
    chosen = settings(tmp_path / "traces", **{"control__model_control": "explicit", **flags})
    control = ControlServer(chosen)
    await control.start()
    address = f"127.0.0.1:{control.port}"
    deployer = FakeDeployer(address, make)
    orders = Orders(address, deployer, [models], [])
    attached = asyncio.create_task(orders.run() if attach else asyncio.sleep(0))
    async with Gateway(chosen, address) as gateway, aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        rig = Rig(chosen, gateway, control, deployer, stub, attached)
        try:
            if attach:
                await until(rig.names, bool)
            if loaded:
                await rig.load()
            yield rig
        finally:
            attached.cancel()
            await asyncio.gather(attached, return_exceptions=True)
            await deployer.stop()
            await rig.control.stop()
