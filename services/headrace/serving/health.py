"""A replica's health on its own port, both sides: what the replica says, and how a deployer without an engine asks.

Two names of grpc.health.v1: the empty one says that batches are welcome, `live` that nobody need replace the process.
"""

from __future__ import annotations

from typing import Final

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headrace.channel import connect
from headrace.credentials import NOBODY, ClientCredentials
from headrace.rpc.health import Health
from headrace.rpc.server import Server

LIVE: Final = "live"
CHECK_TIMEOUT_S: Final = 1.0


class ReplicaHealth:
    """What the port answers."""

    def __init__(self) -> None:
        self._servicer = Health()

    def join(self, server: Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    def say(self, *, ready: bool, live: bool) -> None:
        self._servicer.say("", serving=ready)
        self._servicer.say(LIVE, serving=live)


async def is_live(endpoint: str, credentials: ClientCredentials = NOBODY) -> bool:
    """False when the process behind this port does not answer, or says that it should be replaced."""
    try:
        async with connect(endpoint, credentials) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest(service=LIVE), timeout=CHECK_TIMEOUT_S)
    except aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
