"""A replica without a model: a real gRPC server that answers, waits, refuses or hangs as a test tells it to.

Its answer is a function of the row alone (the sum of the row's bytes, by default), so that a test can check
that every caller got its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from typing import Any, Self

import grpc
import numpy as np
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from headrace.rpc.messages import STATUS
from headrace.v1 import control_pb2, replica_pb2, replica_pb2_grpc

ECHO_SPEC = control_pb2.ModelSpec(
    name="echo",
    version="1",
    digest="sha256:0",
    platform="fake",
    inputs=[
        control_pb2.TensorSpec(name="events", datatype="FP32", dims=[-1, 2], axis="events", finite=True),
        control_pb2.TensorSpec(name="key", datatype="INT64", dims=[1], bounded_below=True, minimum=0),
    ],
    outputs=[control_pb2.TensorSpec(name="sum", datatype="FP64", dims=[1])],
    axes=[control_pb2.Axis(name="events", cap=16)],
    max_rows=32,
    max_tokens=256,
)
"""Two inputs, one ragged; the answer is the row's events summed up, plus its key."""


class FakeReplica(replica_pb2_grpc.ReplicaServicer):
    """Serves `ECHO_SPEC` on a free loopback port."""

    def __init__(self, spec: control_pb2.ModelSpec = ECHO_SPEC, replica_id: str = "") -> None:
        self.spec = spec
        self.replica_id = replica_id or f"fake-{secrets.token_hex(3)}"
        self.batches: list[replica_pb2.PackedBatch] = []
        self.arrived_s: list[float] = []
        """When each of them came, on `monotonic`."""
        self.delay_s = 0.0
        """What each batch takes."""
        self.row_s = 0.0
        """And each of its rows."""
        self.refuse_with: grpc.StatusCode | None = None
        """Answer the next batches with this status."""
        self.hanging = asyncio.Event()
        """While set, batches are received and never answered."""
        self.change: Callable[[replica_pb2.PackedAnswer], None] = lambda _: None
        """Spoil an answer before it is sent."""
        self.health = HealthServicer()
        self._server = aio.server(options=(("grpc.so_reuseport", 0),))
        self._one_at_a_time = asyncio.Lock()
        self._one_write = asyncio.Lock()
        self.port = 0

    @property
    def registration(self) -> control_pb2.Registration:
        return control_pb2.Registration(
            replica_id=self.replica_id,
            endpoint=f"127.0.0.1:{self.port}",
            spec=self.spec,
            state=control_pb2.REPLICA_STATE_READY,
        )

    async def __aenter__(self) -> Self:
        replica_pb2_grpc.add_ReplicaServicer_to_server(self, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self.health.set("", health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Close the port at once, as a killed process does."""
        await self._server.stop(None)

    async def Execute(
        self, request: replica_pb2.PackedBatch, rpc: aio.ServicerContext[Any, Any]
    ) -> replica_pb2.PackedAnswer:
        answer = await self._execute(request)
        if answer.code:
            await rpc.abort(STATUS[answer.code], answer.message)
        return answer

    async def ExecuteStream(self, _: object, rpc: aio.ServicerContext[Any, Any]) -> None:
        async with asyncio.TaskGroup() as group:
            while (request := await rpc.read()) is not aio.EOF:
                group.create_task(self._answer_in(rpc, request))

    async def _answer_in(self, rpc: aio.ServicerContext[Any, Any], request: replica_pb2.PackedBatch) -> None:
        answer = await self._execute(request)
        async with self._one_write:
            with contextlib.suppress(aio.InternalError):  # the stream has ended: nobody waits for this answer
                await rpc.write(answer)

    async def _execute(self, request: replica_pb2.PackedBatch) -> replica_pb2.PackedAnswer:
        self.batches.append(request)
        self.arrived_s.append(time.monotonic())
        if self.refuse_with is not None:
            return replica_pb2.PackedAnswer(
                batch_id=request.batch_id, code=self.refuse_with.value[0], message="as told"
            )
        received_ns = time.time_ns()
        async with self._one_at_a_time:
            started_ns = time.time_ns()
            while self.hanging.is_set():  # noqa: ASYNC110  an Event has no wait for its end
                await asyncio.sleep(0.01)
            await asyncio.sleep(self.delay_s + self.row_s * request.rows)
            answer = self._answer(request)
        now_ns = time.time_ns()
        answer.stamps.CopyFrom(
            replica_pb2.Stamps(
                received_ns=received_ns,
                started_ns=started_ns,
                unpacked_ns=started_ns,
                copied_ns=started_ns,
                computed_ns=now_ns,
                fetched_ns=now_ns,
                packed_ns=now_ns,
            )
        )
        answer.batch_id = request.batch_id
        self.change(answer)
        return answer

    def _answer(self, request: replica_pb2.PackedBatch) -> replica_pb2.PackedAnswer:
        events = np.frombuffer(request.columns[0], "<f4").reshape(-1, 2).sum(axis=1, dtype=np.float64)
        keys = np.frombuffer(request.columns[1], "<i8")
        lengths = np.frombuffer(request.lengths[0], "<i4")
        ends = np.cumsum(lengths)
        sums = [events[end - length : end].sum() for end, length in zip(ends, lengths, strict=True)]
        return replica_pb2.PackedAnswer(
            columns=[(np.array(sums) + keys).astype("<f8").tobytes()],
            status=bytes(request.rows),
            padded_tokens=int(lengths.sum()),
        )
