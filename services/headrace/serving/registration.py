"""A replica's registration with control: one stream, renewed well within its lease, opened again when it breaks.

Control may be away: a replica that has registered once goes on serving and comes back by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

import grpc
from grpc import aio

from headrace.channel import REFUSALS, connect
from headrace.credentials import NOBODY, ClientCredentials
from headrace.errors import StartupError
from headrace.tasks import end
from headrace.v1 import control_pb2, control_pb2_grpc

log = logging.getLogger(__name__)

RENEW_S: Final = 1.0
"""A third of the default lease."""
BACKOFF_S: Final = 0.2


class RegistrationLoop:
    """Keeps one replica registered. `control_address` "" = there is no control, and everything is a no-op."""

    def __init__(
        self,
        control_address: str,
        registration: control_pb2.Registration,
        load: Callable[[], control_pb2.Load],
        credentials: ClientCredentials = NOBODY,
    ) -> None:
        self._address = control_address
        self._credentials = credentials
        self._credentials.check(control_address)
        self._registration = registration
        self._load = load
        self._wake = asyncio.Event()
        self._acknowledged = asyncio.Event()
        self._pending = 0
        """Messages sent and not acknowledged yet."""
        self._refused: str | None = None
        self._settled = asyncio.Event()
        """Registered once, or refused for good."""
        self._task: asyncio.Task[None] | None = None
        self._acknowledged_at = time.monotonic()
        self._control_answered_at = 0.0

    def start(self) -> None:
        """Begin to register, and go on for ever."""
        if self._address:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="registration")
        else:
            self._settled.set()

    async def wait_registered(self) -> None:
        """Until control has acknowledged the replica once. Raises: StartupError when it refused it for good."""
        await self._settled.wait()
        if self._refused is not None:
            raise StartupError(self._refused)

    def update(self, state: control_pb2.ReplicaState) -> None:
        """Tell control of another state, at once."""
        self._registration.state = state
        self._acknowledged.clear()
        self._wake.set()

    async def drain(self, timeout_s: float = 0.2) -> None:
        """Say DRAINING, and wait until control has heard it or `timeout_s` is over."""
        await self._say(control_pb2.REPLICA_STATE_DRAINING, timeout_s)

    async def goodbye(self, timeout_s: float = 0.2) -> None:
        """Say GONE, so that nobody waits for the lease to end; then stop registering."""
        await self._say(control_pb2.REPLICA_STATE_GONE, timeout_s)
        await self.close()

    async def close(self) -> None:
        if self._task is not None:
            await end(self._task)
            self._task = None

    def assert_alive(self, patience_s: float) -> None:
        """Raises: RuntimeError when control answers others, but has not acknowledged us for `patience_s`.

        An outage of control must never look like one of the models.
        """
        silent_s = time.monotonic() - self._acknowledged_at
        if self._address and silent_s > patience_s and self._control_answered_at > self._acknowledged_at:
            raise RuntimeError(f"control answers, but has not acknowledged this replica for {silent_s:.0f} s")

    async def _say(self, state: control_pb2.ReplicaState, timeout_s: float) -> None:
        if self._task is None:
            return
        self.update(state)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._acknowledged.wait()

    async def _run(self) -> None:
        while self._refused is None:
            # A channel a stream: files of TLS that have changed meanwhile are read.
            async with connect(self._address, self._credentials) as channel:
                stub = control_pb2_grpc.ControlStub(channel)
                try:
                    await self._hold_one_stream(stub)
                except aio.AioRpcError as error:
                    self._after_loss(error)
                await self._ask_whether_control_lives(stub)
            await asyncio.sleep(BACKOFF_S)

    async def _hold_one_stream(self, stub: control_pb2_grpc.ControlStub) -> None:
        self._pending = 0
        call = stub.Register(self._messages())
        try:
            async for _ in call:
                self._pending -= 1
                self._acknowledged_at = time.monotonic()
                if not self._settled.is_set():
                    self._settled.set()
                if not self._pending and not self._wake.is_set():
                    self._acknowledged.set()
        finally:
            call.cancel()

    async def _messages(self) -> AsyncIterator[control_pb2.Registration]:
        """The entry, now and every `RENEW_S`, and at once when its state changes."""
        while True:
            self._wake.clear()
            self._registration.load.CopyFrom(self._load())
            self._pending += 1
            yield self._registration
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEW_S):
                    await self._wake.wait()

    def _after_loss(self, error: aio.AioRpcError) -> None:
        stranger = error.code() in REFUSALS
        if stranger and self._settled.is_set():  # what control believes has changed: no reason to stop serving
            log.warning("control does not let this replica in any more: %s", error.details())
        elif stranger or error.code() in (grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.INVALID_ARGUMENT):
            why = error.details() or "control refused the registration"
            self._refused = f"control at {self._address} does not let this replica in: {why}" if stranger else why
            self._settled.set()
            log.error("%s", self._refused)

    async def _ask_whether_control_lives(self, stub: control_pb2_grpc.ControlStub) -> None:
        with contextlib.suppress(aio.AioRpcError):
            await stub.Describe(control_pb2.DescribeRequest(), timeout=1)
            self._control_answered_at = time.monotonic()
