"""Random faults for a cluster under load, one at a time, each once the one before is mended. Seeded."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import http2
import serialised
from grpc import aio
from open_loop import METHOD

from headrace.children import Child
from headrace.cluster import Cluster
from headrace.v1 import control_pb2, control_pb2_grpc

EXPORT: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
QUIET_S: Final = 8.0
"""From one fault's end to the next, on average: callers see each on its own."""
MEND_S: Final = 90.0
COLLECTOR_AWAY_S: Final = 8.0
MALFORMED: Final = 200


class Collector:
    """Takes spans and forgets them, on one port, until it is told to be away."""

    def __init__(self, port: int) -> None:
        self._address = f"127.0.0.1:{port}"
        self.endpoint = f"http://{self._address}"
        self.bytes = 0
        self._server: grpc.Server | None = None

    def there(self) -> None:
        handler = grpc.unary_unary_rpc_method_handler(self._take)
        service, method = EXPORT[1:].split("/")
        self._server = grpc.server(futures.ThreadPoolExecutor(1), options=(("grpc.so_reuseport", 0),))
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        self._server.add_insecure_port(self._address)
        self._server.start()

    def away(self) -> None:
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    def _take(self, request: bytes, _: grpc.ServicerContext) -> bytes:
        self.bytes += len(request)
        return b""


@dataclass(frozen=True)
class Fault:
    """What was done, when, and what it took until all was there again; seconds, since the load began."""

    name: str
    at_s: float
    whole_after_s: float


class Mischief:
    """`async with mischief.running()`: faults all the time inside, and none is left open at the end."""

    def __init__(self, cluster: Cluster, collector: Collector, questions: Path, seed: int, replicas: int) -> None:
        self._cluster, self._collector, self._replicas = cluster, collector, replicas
        self._messages = serialised.load(questions).requests
        self._random = random.Random(seed)
        self._begun_s = time.monotonic()
        self.done: list[Fault] = []
        self._ways: dict[str, Callable[[], Awaitable[None]]] = {
            "replica killed": lambda: self._strike_replica(signal.SIGKILL),
            "replica stopped": lambda: self._strike_replica(signal.SIGSTOP),
            # The last of them: the first lives for as long as the load, and its memory with it.
            "gateway told to end": lambda: _strike(cluster.gateways[-1], signal.SIGTERM),
            "gateway killed": lambda: _strike(cluster.gateways[-1], signal.SIGKILL),
            "control killed": lambda: _strike(cluster.control, signal.SIGKILL),
            "malformed requests": self._malformed,
            "collector away": self._collector_away,
        }

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Raises: whatever a fault that was not mended raises, TimeoutError above all."""
        self._begun_s, stopping = time.monotonic(), asyncio.Event()
        task = asyncio.create_task(self._for_ever(stopping))
        try:
            yield
        finally:
            stopping.set()
            await task

    async def _for_ever(self, stopping: asyncio.Event) -> None:
        """Every way once, in a random order, then all again in another."""
        while True:
            for name in self._random.sample(sorted(self._ways), len(self._ways)):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._random.uniform(0.5, 1.5) * QUIET_S):
                        await stopping.wait()
                if stopping.is_set():
                    return
                began_s = time.monotonic()
                async with asyncio.timeout(MEND_S):
                    await self._ways[name]()
                    await _until(self._is_whole)
                self.done.append(Fault(name, began_s - self._begun_s, time.monotonic() - began_s))

    async def replicas(self) -> set[int]:
        """Process ids of those that are ready; none while control is away."""
        try:
            async with aio.insecure_channel(self._cluster.control_address) as channel:
                snapshot = await control_pb2_grpc.ControlStub(channel).Describe(
                    control_pb2.DescribeRequest(), timeout=2
                )
        except aio.AioRpcError:
            return set()
        ready = [one for one in snapshot.replicas if one.state == control_pb2.REPLICA_STATE_READY]
        return {int(one.replica_id.split("-")[-2]) for one in ready}

    async def _strike_replica(self, number: signal.Signals) -> None:
        victim = self._random.choice(sorted(await self.replicas()))
        os.kill(victim, number)

        async def is_unlisted() -> bool:
            return victim not in await self.replicas()

        await _until(is_unlisted)

    async def _malformed(self) -> None:
        await asyncio.to_thread(send_malformed, self._cluster.address, self._messages, self._random)

    async def _collector_away(self) -> None:
        await asyncio.to_thread(self._collector.away)
        await asyncio.sleep(COLLECTOR_AWAY_S)
        self._collector.there()

    async def _is_whole(self) -> bool:
        listed = await self.replicas()
        return len(listed) == self._replicas and await self._cluster._ready_gateways()  # noqa: SLF001  as at its start


async def _strike(child: Child, number: signal.Signals) -> None:
    """Until there is another in its place."""
    victim = child.pid
    assert victim is not None, "it was there when the last fault was mended"
    os.kill(victim, number)

    async def is_another() -> bool:
        return child.pid != victim

    await _until(is_another)


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    while not await holds():  # noqa: ASYNC110  the state of other processes, none of which signals it
        await asyncio.sleep(0.1)


def send_malformed(address: str, messages: list[bytes], rng: random.Random) -> None:
    """Requests cut short, changed and made of noise, and connections that speak no HTTP/2. Blocks."""
    connection = http2.Connection(address, METHOD, lambda *_: None)
    for number in range(MALFORMED):
        message = bytearray(rng.choice(messages))
        for _ in range(rng.randrange(1, 20)):
            message[rng.randrange(len(message))] = rng.randrange(256)
        connection.call(number, bytes(message[: rng.randrange(len(message))]), 3.0)
    connection.flush()
    deadline = time.monotonic() + 5
    while connection._calls and not connection.lost and time.monotonic() < deadline:  # noqa: SLF001
        connection.flush()
        connection.read()
        time.sleep(0.001)
    connection.close()
    host, port = address.rsplit(":", 1)
    for _ in range(20):
        with contextlib.suppress(OSError), http2.socket.create_connection((host, int(port)), timeout=5) as noise:
            noise.sendall(rng.randbytes(200))
