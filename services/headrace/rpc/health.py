"""grpc.health.v1 at any of our ports. Saying how things stand never waits for those who watch.

grpcio's own servicer writes to its watchers under a lock that setting takes as well: one that does not read would keep
a process from telling its health to anybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from headrace.rpc.call import Call

LIVENESS: Final = "liveness"
"""Served as long as the process is there: it says no more than that somebody answers, so the event loop turns."""
READINESS: Final = "readiness"
"""Whether callers should be sent here. Once it is so it stays, until the process drains. If it followed what a process
depends on, a loss that all of a kind share would leave callers with nobody who could tell them of it."""
SERVICE: Final[str] = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """What a process says of itself, by name; the empty one is the whole of it."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._watching: dict[asyncio.Event, str] = {}
        """What wakes each watcher, and the name it looks at."""

    def say(self, name: str, *, serving: bool) -> None:
        """From now on; watchers hear of it when they are next able to read."""
        self._known[name] = HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        for news, watched in self._watching.items():
            if watched == name:
                news.set()

    async def Check(self, request: HealthCheckRequest, rpc: Call) -> HealthCheckResponse:
        status = self._known.get(request.service)
        if status is None:
            await rpc.abort(grpc.StatusCode.NOT_FOUND, "")
        return HealthCheckResponse(status=status)

    async def Watch(self, request: HealthCheckRequest, _: Call) -> AsyncIterator[HealthCheckResponse]:
        """The status at first and after each change; what came between two that it reads is left out."""
        name, told, news = request.service, None, asyncio.Event()
        self._watching[news] = name
        try:
            while True:
                news.clear()
                status = self._known.get(name, HealthCheckResponse.SERVICE_UNKNOWN)
                if status != told:
                    told = status
                    yield HealthCheckResponse(status=status)
                await news.wait()
        finally:
            del self._watching[news]
