"""What control orders of a deployer, done; and what the deployer has, told to control. Owned by who starts the cluster.

Only names come in, and they stand for versions that lie in the model directories: no code, no path, no configuration.
What has begun goes on while control is away; the first word to the next control is everything there is.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Coroutine, Sequence
from pathlib import Path
from typing import Final

from grpc import aio

from headrace.channel import connect
from headrace.credentials import NOBODY, ClientCredentials
from headrace.errors import StartupError
from headrace.serving import weights
from headrace.serving.deploy import Deployer
from headrace.serving.weights import FoundModel
from headrace.tasks import end
from headrace.v1 import control_pb2 as pb
from headrace.v1 import control_pb2_grpc

log = logging.getLogger(__name__)

OWN_ERROR: Final = "an error of the deployer's own, its log has it"
BACKOFF_S: Final = 0.2
MAX_SENTENCE: Final = 2000
Key = tuple[str, str]
"""Model and version."""


class Orders:
    """`run` it: it attaches the deployer to control, for ever. `running`: the versions that it was started with."""

    def __init__(
        self,
        control_address: str,
        deployer: Deployer,
        directories: Sequence[Path],
        running: Collection[FoundModel],
        credentials: ClientCredentials = NOBODY,
    ) -> None:
        self._control_address = control_address
        self._deployer = deployer
        self._directories = directories
        self._credentials = credentials
        self._id = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._digests: dict[Key, str] = {(one.name, one.version): one.spec.digest for one in running}
        """Of what is kept running."""
        self._states = {key: pb.ModelVersion(phase=pb.MODEL_PHASE_LOADED) for key in self._digests}
        """Of what was ever loaded, or should have been."""
        self._news: asyncio.Queue[pb.DeployReport] = asyncio.Queue()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._acts: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until cancelled; what has begun then is cancelled too."""
        told = ""
        try:
            while True:
                try:
                    async with connect(self._control_address, self._credentials) as channel:
                        await self._hold_one_stream(control_pb2_grpc.ControlStub(channel))
                except aio.AioRpcError as error:
                    if (why := f"{error.code().name}: {error.details()}") != told:
                        told = why
                        log.warning("control takes no word from the deployer: %s", why)
                await asyncio.sleep(BACKOFF_S)
        finally:
            await end(*self._acts)

    async def _hold_one_stream(self, stub: control_pb2_grpc.ControlStub) -> None:
        self._news = asyncio.Queue()
        self._say()
        call = stub.Deploy(self._reports(self._news))
        try:
            async for order in call:
                self._own(self._obey(order))
        finally:
            call.cancel()

    @staticmethod
    async def _reports(news: asyncio.Queue[pb.DeployReport]) -> AsyncIterator[pb.DeployReport]:
        while True:
            yield await news.get()

    def _own(self, act: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(act, name="deploy")
        self._acts.add(task)
        task.add_done_callback(self._acts.discard)

    # Acts -----------------------------------------------------------------------------------------------------------

    async def _obey(self, order: pb.DeployOrder) -> None:
        failure = ""
        try:
            async with self._locks[order.model]:  # a control that has started anew knows nothing of what is under way
                if order.kind == pb.DEPLOY_KIND_UNLOAD:
                    await self._unload(order.model)
                else:
                    await self._load(order.model)
        except StartupError as error:
            failure = str(error)
        except Exception:  # whoever asked must hear something
            log.exception("an order was lost to an error of ours")
            failure = f"failed to load or unload '{order.model}': {OWN_ERROR}"
        self._say(order.act, failure[:MAX_SENTENCE])

    async def _load(self, model: str) -> None:
        """Each version by itself: one that is broken keeps no other from being loaded. Raises: StartupError."""
        failed = f"failed to load '{model}', "
        try:
            listed = await asyncio.to_thread(weights.listed, self._directories)
        except StartupError as error:
            raise StartupError(f"{failed}failed to poll from model repository: {error}") from error
        found = {version: path for (name, version), path in listed.items() if name == model}
        if not found:
            raise StartupError(f"{failed}failed to poll from model repository: no directory of models has it")
        broken = {}
        for version in sorted(found, key=int):
            try:
                await self._load_version((model, version), found[version])
            except StartupError as error:
                broken[version] = str(error)
        if broken:
            missing = f"version {', '.join(broken)} is not" if self._loaded(model) else "no version is"
            raise StartupError(f"{failed}{missing} available: {'; '.join(broken.values())}")

    async def _load_version(self, key: Key, directory: Path) -> None:
        """Raises: StartupError; a version that serves is not touched by what is wrong with its directory by now."""
        running = self._digests.get(key)
        try:
            found = await asyncio.to_thread(weights.read, directory)
        except StartupError as error:
            if running is None:
                self._change(key, pb.MODEL_PHASE_FAILED, str(error))
            raise
        if running not in (None, found.spec.digest):
            raise StartupError(f"{directory}: {found.spec.digest}, but {running} is loaded: a version is immutable")
        if running is None:
            self._change(key, pb.MODEL_PHASE_LOADING)
        try:
            await self._deployer.load(found)
        except Exception as error:
            self._digests.pop(key, None)
            self._change(key, pb.MODEL_PHASE_FAILED, str(error) if isinstance(error, StartupError) else OWN_ERROR)
            raise
        self._digests[key] = found.spec.digest
        self._change(key, pb.MODEL_PHASE_LOADED)

    async def _unload(self, model: str) -> None:
        versions = self._loaded(model)
        for version in versions:
            self._change((model, version), pb.MODEL_PHASE_UNLOADING)
        await self._deployer.unload(model, versions)
        for version in versions:
            del self._digests[model, version]
            self._change((model, version), pb.MODEL_PHASE_UNLOADED, "unloaded")

    def _loaded(self, model: str) -> list[str]:
        return [version for name, version in self._digests if name == model]

    # Words ----------------------------------------------------------------------------------------------------------

    def _change(self, key: Key, phase: pb.ModelPhase, reason: str = "") -> None:
        self._states[key] = pb.ModelVersion(phase=phase, reason=reason[:MAX_SENTENCE])
        self._say()

    def _say(self, act: int = 0, failure: str = "") -> None:
        report = pb.DeployReport(deployer_id=self._id, act=act, failure=failure)
        for (model, version), state in sorted((self._found() | self._states).items()):
            report.repository.versions.add(model=model, version=version, phase=state.phase, reason=state.reason)
        self._news.put_nowait(report)

    def _found(self) -> dict[Key, pb.ModelVersion]:
        """What lies in the directories now."""
        try:
            listed = weights.listed(self._directories)
        except StartupError:  # a load says what is wrong there
            return {}
        return {key: pb.ModelVersion(phase=pb.MODEL_PHASE_FOUND) for key in listed}
