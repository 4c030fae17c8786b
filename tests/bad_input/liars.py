"""A replica that answers with whatever bytes a test makes up, on our own server: grpc's would not send some of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2_grpc

from headrace.rpc.health import Health
from headrace.rpc.server import Server
from headrace.testing.replica import FakeReplica
from headrace.v1 import replica_pb2

Lie = Callable[[replica_pb2.PackedAnswer], list[bytes]]
"""The true answer → the messages that are sent instead."""


def truth(answer: replica_pb2.PackedAnswer) -> list[bytes]:
    return [answer.SerializeToString()]


class Liar(FakeReplica):
    """A FakeReplica whose answers pass through `lie`."""

    def __init__(self) -> None:
        super().__init__()
        self.lie: Lie = truth
        self._bare = Server()
        self._ours = Health()

    async def __aenter__(self) -> Self:
        handler = grpc.stream_stream_rpc_method_handler(self._stream, replica_pb2.PackedBatch.FromString, None)
        self._bare.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("headrace.v1.Replica", {"ExecuteStream": handler}),)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._ours, self._bare)
        self._ours.say("", serving=True)
        self.port = self._bare.add_insecure_port("127.0.0.1:0")
        await self._bare.start()
        return self

    async def stop(self) -> None:
        await self._bare.stop(None)

    async def _stream(self, _: object, rpc: Any) -> None:
        while (request := await rpc.read()) is not aio.EOF:
            for message in self.lie(await self._execute(request)):
                await rpc.write(message)
