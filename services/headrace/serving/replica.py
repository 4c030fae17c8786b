"""A replica: one model on one device behind its own gRPC port. The same in a Ray Serve deployment and in a process.

Runs one batch at a time on a thread of its own; says to control who and how it is. Knows nothing of callers.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
import torch
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from headrace.channel import SERVER_OPTIONS
from headrace.config import ModelSettings, ReplicaSettings
from headrace.core.records import ReplicaRecord
from headrace.errors import HeadraceError, StartupError, status_of
from headrace.serving import weights
from headrace.serving.registration import RegistrationLoop
from headrace.serving.runner import Computed, Runner, pick_device
from headrace.serving.warmup import warm_up
from headrace.serving.weights import FoundModel
from headrace.telemetry import context
from headrace.telemetry.clock import wall_ns
from headrace.telemetry.tracing import Tracer
from headrace.v1 import control_pb2, replica_pb2, replica_pb2_grpc

log = logging.getLogger(__name__)

ALIVE_PATIENCE_S: Final = 10.0


class ReplicaServer(replica_pb2_grpc.ReplicaServicer):
    """`headrace.v1.Replica` for one model version."""

    def __init__(
        self, model: FoundModel, settings: ReplicaSettings, run: ModelSettings, control_address: str, tracer: Tracer
    ) -> None:
        self._model = model
        self._settings = settings
        self._run = run
        self._tracer = tracer
        self.replica_id = f"{model.name}-{model.version}-{os.getpid()}-{secrets.token_hex(3)}"
        self._registration_message = control_pb2.Registration(
            replica_id=self.replica_id, spec=weights.wire_spec(model), state=control_pb2.REPLICA_STATE_WARMING
        )
        self.registration = RegistrationLoop(control_address, self._registration_message, self._load)
        self._health = HealthServicer()
        self._server = aio.server(options=SERVER_OPTIONS)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="runner")
        self._runner: Runner | None = None
        self._waiting = 0
        self._running_since = 0.0
        self._stopped = False
        self.port = 0

    # Life ---------------------------------------------------------------------------------------------------------

    async def start(self, address: str, cluster: str = "") -> None:
        """Open the port on any free number, load, warm up, and be READY. Raises: StartupError."""
        replica_pb2_grpc.add_ReplicaServicer_to_server(self, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        host = address if address.startswith("127.") else "0.0.0.0"  # noqa: S104  a node's address may be mapped
        self.port = self._server.add_insecure_port(f"{host}:0")
        self._registration_message.endpoint = f"{address}:{self.port}"
        self._registration_message.cluster = cluster
        await self._health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()
        self.registration.start()
        self._runner = await asyncio.get_running_loop().run_in_executor(self._thread, self._build)
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        self.registration.update(control_pb2.REPLICA_STATE_READY)
        log.info("replica %s is ready on %s:%d (%s)", self.replica_id, address, self.port, self._runner.device)

    async def stop(self) -> None:
        """DRAINING, a moment for gateways to read it, finish what is here, then the port closes. Safe to call twice."""
        if self._stopped:
            return
        self._stopped = True
        await self.registration.drain()
        await asyncio.sleep(self._settings.notice_s if self.port else 0)
        await self._health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.stop(self._settings.grace_s)
        await self.registration.goodbye()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def assert_healthy(self) -> None:
        """Raises: RuntimeError when a batch has been running for too long, or control has lost us alone."""
        running_s = time.monotonic() - self._running_since if self._running_since else 0.0
        if running_s > self._settings.max_batch_s:
            raise RuntimeError(f"a batch has been running for {running_s:.0f} s")
        self.registration.assert_alive(ALIVE_PATIENCE_S)

    def _build(self) -> Runner:
        """On the runner's thread: torch keeps its per-thread state where the batches will run."""
        torch.set_num_threads(self._run.threads)
        device = pick_device(self._run.device)
        try:
            module = weights.load(self._model, device)
        except torch.cuda.OutOfMemoryError as error:
            raise StartupError(f"{self._model.directory}: does not fit the device: {error}") from error
        runner = Runner(module, self._model.spec, device)
        warm_up(runner, self._model.spec)
        gc.collect()
        gc.freeze()
        return runner

    def _load(self) -> control_pb2.Load:
        running_s = time.monotonic() - self._running_since if self._running_since else 0.0
        return control_pb2.Load(queued=self._waiting, running_since_s=running_s)

    # One batch ----------------------------------------------------------------------------------------------------

    async def Execute(
        self, request: replica_pb2.PackedBatch, rpc: aio.ServicerContext[Any, Any]
    ) -> replica_pb2.PackedAnswer:
        received_ns = time.perf_counter_ns()
        await self._check_addressee(request, rpc)
        if self._waiting >= self._settings.queue_batches:
            await rpc.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self._waiting} batches wait already")
        self._waiting += 1
        # A call that is cancelled while it waits cancels this future: the batch never runs.
        job = asyncio.get_running_loop().run_in_executor(self._thread, self._execute, request, received_ns)
        try:
            answer, record = await job
        except HeadraceError as error:
            log.exception("a batch of %d rows failed", request.rows)
            await rpc.abort(grpc.StatusCode[status_of(error)], str(error))
        finally:
            self._waiting -= 1
        if record.sampled:
            self._tracer.replica(record)
        return answer

    async def _check_addressee(self, request: replica_pb2.PackedBatch, rpc: aio.ServicerContext[Any, Any]) -> None:
        meant = request.replica_id, request.model, request.version
        if meant != (self.replica_id, self._model.name, self._model.version):
            await rpc.abort(grpc.StatusCode.FAILED_PRECONDITION, f"this is {self.replica_id}, not {request.replica_id}")
        if self._runner is None or self._stopped:
            await rpc.abort(grpc.StatusCode.UNAVAILABLE, "not ready")

    def _execute(
        self, request: replica_pb2.PackedBatch, received_ns: int
    ) -> tuple[replica_pb2.PackedAnswer, ReplicaRecord]:
        """On the runner's thread."""
        assert self._runner is not None, "This is a bug."
        started_ns = time.perf_counter_ns()
        self._running_since = time.monotonic()
        try:
            computed = self._runner.run(request, (started_ns - received_ns) / 1e9)
        finally:
            self._running_since = 0.0
        record = self._record(request, computed, received_ns, started_ns)
        return self._answer(computed, record), record

    def _answer(self, computed: Computed, record: ReplicaRecord) -> replica_pb2.PackedAnswer:
        return replica_pb2.PackedAnswer(
            columns=computed.columns,
            status=computed.status,
            stamps=replica_pb2.Stamps(
                received_ns=record.received_wall_ns,
                started_ns=record.started_wall_ns,
                unpacked_ns=record.unpacked_wall_ns,
                forward_ns=record.forward_wall_ns,
                computed_ns=record.computed_wall_ns,
                packed_ns=record.packed_wall_ns,
            ),
            queued=self._waiting - 1,
            forward_span_id=record.forward_span_id,
            padded_tokens=computed.padded_tokens,
        )

    def _record(
        self, request: replica_pb2.PackedBatch, computed: Computed, received_ns: int, started_ns: int
    ) -> ReplicaRecord:
        parent = context.unpack(request.context)
        assert self._runner is not None, "This is a bug."
        return ReplicaRecord(
            trace_id=parent.trace_id if parent else bytes(16),
            parent_id=parent.span_id if parent else 0,
            span_id=random.getrandbits(63) + 1,
            forward_span_id=random.getrandbits(63) + 1,
            sampled=bool(parent and parent.sampled),
            replica_id=self.replica_id,
            model=self._model.name,
            version=self._model.version,
            device=self._runner.device,
            received_wall_ns=wall_ns(received_ns),
            started_wall_ns=wall_ns(started_ns),
            unpacked_wall_ns=wall_ns(computed.unpacked_ns),
            forward_wall_ns=wall_ns(computed.forward_ns),
            computed_wall_ns=wall_ns(computed.computed_ns),
            packed_wall_ns=wall_ns(computed.packed_ns),
            rows=request.rows,
            tokens=computed.tokens,
            padded_tokens=computed.padded_tokens,
            expired=computed.expired,
        )
