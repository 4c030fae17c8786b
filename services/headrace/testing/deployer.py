"""A deployer whose replicas live in the test's own process: it starts, refuses or waits as a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

from headrace.errors import StartupError
from headrace.serving import weights
from headrace.serving.registration import RegistrationLoop
from headrace.serving.weights import FoundModel
from headrace.testing.replica import FakeReplica
from headrace.v1 import control_pb2

Key = tuple[str, str]
"""Model and version."""


class FakeDeployer:
    """A replica of each version; `make` makes one of its spec."""

    def __init__(
        self, control_address: str, make: Callable[[control_pb2.ModelSpec], FakeReplica] = FakeReplica
    ) -> None:
        self._control_address = control_address
        self._make = make
        self.replicas: dict[Key, FakeReplica] = {}
        self.loads: list[Key] = []
        """What it was asked to load, in order."""
        self.refuse: dict[Key, str] = {}
        """Versions that do not start, and why."""
        self.open = asyncio.Event()
        """While it is not set, no version gets ready."""
        self.open.set()
        self._registrations: dict[Key, RegistrationLoop] = {}

    async def deploy(self, models: Sequence[FoundModel]) -> None:
        for model in models:
            await self.load(model)

    async def load(self, model: FoundModel) -> None:
        key = model.name, model.version
        self.loads.append(key)
        await self.open.wait()
        if key in self.refuse:
            raise StartupError(self.refuse[key])
        if key in self.replicas:
            return
        replica = self.replicas[key] = await self._make(weights.wire_spec(model)).__aenter__()
        registration = RegistrationLoop(self._control_address, replica.registration, control_pb2.Load)
        self._registrations[key] = registration
        registration.start()
        await registration.wait_registered()

    async def unload(self, model: str, versions: Collection[str]) -> None:
        for version in versions:
            await self._end((model, version))

    async def stop(self) -> None:
        for key in list(self.replicas):
            await self._end(key)

    async def _end(self, key: Key) -> None:
        await self._registrations.pop(key).goodbye()
        await self.replicas.pop(key).stop()
