"""Control in a test's hands: it says who is there and who answers, and keeps the pairs that gateways tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any, Self

import grpc
from grpc import aio

from headrace.v1 import control_pb2, control_pb2_grpc, experiments_pb2, experiments_pb2_grpc


class FakeControl(control_pb2_grpc.ControlServicer, experiments_pb2_grpc.ExperimentServiceServicer):
    """A real gRPC server on a free loopback port. `async with FakeControl() as control`."""

    def __init__(self) -> None:
        self.told: list[experiments_pb2.RecordPairsRequest] = []
        """What it has acknowledged, in order."""
        self.heard: list[experiments_pb2.RecordPairsRequest] = []
        """What has come, refused or not."""
        self.refuse_with: grpc.StatusCode | None = None
        """Answer the next pairs with this status."""
        self._snapshot = control_pb2.Snapshot(version=1, epoch="fake")
        self._changed = asyncio.Condition()
        self._server = aio.server(options=(("grpc.so_reuseport", 0),))
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        control_pb2_grpc.add_ControlServicer_to_server(self, self._server)
        experiments_pb2_grpc.add_ExperimentServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    async def say(
        self,
        replicas: Iterable[control_pb2.Registration] | None = None,
        policy: control_pb2.TrafficPolicy | None = None,
    ) -> None:
        """Tell every follower of other replicas, another policy, or both."""
        snapshot = control_pb2.Snapshot(version=self._snapshot.version + 1, epoch="fake")
        snapshot.replicas.extend(self._snapshot.replicas if replicas is None else replicas)
        snapshot.policies.extend(self._snapshot.policies if policy is None else [policy])
        async with self._changed:
            self._snapshot = snapshot
            self._changed.notify_all()

    async def Follow(
        self, request: control_pb2.FollowRequest, rpc: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[control_pb2.Snapshot]:
        sent = 0
        while True:
            async with self._changed:
                await self._changed.wait_for(partial(self._newer_than, sent))
                snapshot = self._snapshot
            sent = snapshot.version
            yield snapshot

    def _newer_than(self, version: int) -> bool:
        return self._snapshot.version > version

    async def RecordPairs(
        self, request: experiments_pb2.RecordPairsRequest, rpc: aio.ServicerContext[Any, Any]
    ) -> experiments_pb2.RecordPairsResponse:
        self.heard.append(request)
        if self.refuse_with is not None:
            await rpc.abort(self.refuse_with, "as told")
        self.told.append(request)
        return experiments_pb2.RecordPairsResponse()
