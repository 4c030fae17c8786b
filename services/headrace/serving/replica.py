"""A replica: one model on one device behind its own gRPC port. The same in a Ray Serve deployment and in a process.

Runs one batch at a time on a thread of its own; says to control who and how it is. Knows nothing of callers.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import socket
import time
from functools import partial
from typing import Final

import grpc
import torch
from grpc import aio

from headrace import doors
from headrace.channel import STAMPS
from headrace.config import ModelSettings, ReplicaSettings
from headrace.errors import Failed, HeadraceError, status_of
from headrace.rpc.call import Call
from headrace.rpc.messages import STATUS
from headrace.serving import weights
from headrace.serving.demand import Demand
from headrace.serving.health import ReplicaHealth
from headrace.serving.listening import listen
from headrace.serving.registration import RegistrationLoop
from headrace.serving.runner import Runner, pick_device
from headrace.serving.stopwatch import Stamps
from headrace.serving.thread import RunnerThread
from headrace.serving.warmup import warm_up
from headrace.serving.weights import FoundModel
from headrace.tasks import end
from headrace.telemetry import context
from headrace.v1 import control_pb2, replica_pb2, replica_pb2_grpc

log = logging.getLogger(__name__)

ALIVE_PATIENCE_S: Final = 10.0
WATCH_S: Final = 0.5


class ReplicaServer(replica_pb2_grpc.ReplicaServicer):
    """`headrace.v1.Replica` for one model version."""

    def __init__(
        self,
        model: FoundModel,
        settings: ReplicaSettings,
        run: ModelSettings,
        control_address: str,
        behind: doors.Doors | None = None,
    ) -> None:
        self._model = model
        self._settings = settings
        self._run = run
        self._doors = behind or doors.unlocked()
        self.replica_id = f"{model.name}-{model.version}-{os.getpid()}-{secrets.token_hex(3)}"
        self._registration_message = control_pb2.Registration(
            replica_id=self.replica_id,
            spec=weights.wire_spec(model),
            state=control_pb2.REPLICA_STATE_WARMING,
            host=socket.gethostname(),
            service=settings.service,
        )
        self.registration = RegistrationLoop(
            control_address, self._registration_message, self._load, self._doors.credentials
        )
        self.demand = Demand()
        """What the gateways ask of this version: how Serve scales it."""
        self._health = ReplicaHealth()
        self._server = self._doors.server()
        self._thread = RunnerThread(settings.queue_batches)
        self._runner: Runner | None = None
        self._watch: asyncio.Task[None] | None = None
        self._stopped = False
        self._streams: set[asyncio.Task[None]] = set()
        """Who reads the batches of each gateway."""
        self.port = 0

    # Life ---------------------------------------------------------------------------------------------------------

    async def start(self, address: str, cluster: str = "", started_us: int = 0) -> None:
        """Open a port, load, warm up, and be READY. `started_us` is when its cluster began. Raises: StartupError."""
        replica_pb2_grpc.add_ReplicaServicer_to_server(self, self._server)
        self._health.join(self._server)
        host = f"[{address}]" if ":" in address else address
        self.port = listen(self._doors, self._server, host, self._settings.ports)
        self._registration_message.endpoint = f"{host}:{self.port}"
        self._registration_message.cluster = cluster
        self._registration_message.started_us = started_us
        self._health.say(ready=False, live=True)
        await self._server.start()
        self.registration.start()
        self._runner = await self._thread.run(self._build)
        self._registration_message.device = self._runner.device
        self._registration_message.precision = self._runner.precision
        self._health.say(ready=True, live=True)
        self._watch = asyncio.get_running_loop().create_task(self._watch_for_ever(), name="watch")
        self.registration.update(control_pb2.REPLICA_STATE_READY)
        log.info("replica %s is ready on %s:%d (%s)", self.replica_id, address, self.port, self._runner.device)

    async def stop(self) -> None:
        """DRAINING, a moment for gateways to read it, finish what is here, then the port closes. Safe to call twice.

        Batches are welcome until the port closes: a gateway that has not heard yet must not lose one.
        """
        if self._stopped:
            return
        self._stopped = True
        await self.registration.drain()
        await asyncio.sleep(self._settings.notice_s if self.port else 0)
        if self._watch is not None:
            await end(self._watch)
        self._health.say(ready=False, live=True)
        for reading in self._streams:
            reading.cancel()
        await self._server.stop(self._settings.grace_s)
        await self.registration.goodbye()
        self._thread.close()

    def assert_healthy(self) -> None:
        """Raises: RuntimeError when a batch hangs, the device is lost, or control has lost us alone."""
        if self._thread.running_s > self._settings.max_batch_s:
            raise RuntimeError(f"a batch has been running for {self._thread.running_s:.0f} s")
        if self._device_lost:
            raise RuntimeError("the device is lost")
        self.registration.assert_alive(ALIVE_PATIENCE_S)

    @property
    def _device_lost(self) -> bool:
        return self._runner is not None and self._runner.device_lost

    async def _watch_for_ever(self) -> None:
        """Health as the port tells it: to gateways that think of coming back, and to a deployer without an engine."""
        was = ""
        while True:
            await asyncio.sleep(WATCH_S)
            complaint = self._complaint()
            if complaint and not was:
                log.warning("replica %s is not healthy: %s", self.replica_id, complaint)
            was = complaint
            self._health.say(ready=not complaint, live=not complaint)

    def _complaint(self) -> str:
        try:
            self.assert_healthy()
        except RuntimeError as error:
            return str(error)
        return ""

    def _build(self) -> Runner:
        """On the runner's thread: torch keeps its per-thread state where the batches will run."""
        torch.set_num_threads(self._run.threads)
        device = pick_device(self._run.device)
        runner = Runner(weights.load(self._model, device), self._model.spec, device)
        warm_up(runner, self._model.spec)
        gc.collect()
        gc.freeze()
        return runner

    def _load(self) -> control_pb2.Load:
        return control_pb2.Load(queued=self._thread.waiting, running_since_s=self._thread.running_s)

    # One batch ----------------------------------------------------------------------------------------------------

    async def Execute(self, request: replica_pb2.PackedBatch, rpc: Call) -> replica_pb2.PackedAnswer:
        answer = await self._answer(request)
        if answer.code:
            stamps = ((STAMPS, answer.stamps.SerializeToString()),)
            await rpc.abort(STATUS[answer.code], answer.message, stamps)
        return answer

    async def ExecuteStream(self, _: object, rpc: Call) -> None:
        """One gateway's batches, until it leaves or we do: then no more are read, and what has come is answered.

        Cancellation (the gateway is gone, or has given us up): batches that have not begun never run.
        """
        answering: set[asyncio.Task[None]] = set()
        reading = asyncio.get_running_loop().create_task(self._read(rpc, answering), name="read-batches")
        self._streams.add(reading)
        try:
            await asyncio.wait({reading})
            await asyncio.gather(*answering)
        finally:
            self._streams.discard(reading)
            for task in (reading, *answering):
                task.cancel()

    async def _read(self, rpc: Call, answering: set[asyncio.Task[None]]) -> None:
        async def reply(batch: replica_pb2.PackedBatch) -> None:
            answer = await self._answer(batch)
            with contextlib.suppress(aio.InternalError):  # the stream has ended: nobody waits for this answer
                await rpc.write(answer)

        while (batch := await rpc.read()) is not aio.EOF:
            task = asyncio.get_running_loop().create_task(reply(batch), name="reply")
            answering.add(task)
            task.add_done_callback(answering.discard)

    async def _answer(self, request: replica_pb2.PackedBatch) -> replica_pb2.PackedAnswer:
        """A batch's rows, or a code and a sentence. Cancellation: it never runs if it has not begun."""
        stamps = Stamps(time.perf_counter_ns())
        meant = request.replica_id, request.model, request.version
        if meant != (self.replica_id, self._model.name, self._model.version):
            sentence = f"this is {self.replica_id}, not {request.replica_id}"
            return _refusal(request, grpc.StatusCode.FAILED_PRECONDITION, sentence, stamps)
        if self._runner is None:
            return _refusal(request, grpc.StatusCode.UNAVAILABLE, "not ready", stamps)
        self.demand.came(request)
        try:
            return await self._thread.run(partial(self._execute, request, stamps), spare=request.shadow)
        except HeadraceError as error:
            if isinstance(error, Failed):
                log.exception("a batch of %d rows failed", request.rows, extra={"fields": _ids(request)})
            if self._device_lost and not self._stopped:
                self.registration.update(control_pb2.REPLICA_STATE_DRAINING)  # the next batch would fail as well
            return _refusal(request, grpc.StatusCode[status_of(error)], str(error), stamps)
        except Exception:  # the outer guard: a gateway must never wait for a batch that nobody holds any more
            log.exception("a batch was lost to an error of ours", extra={"fields": _ids(request)})
            return _refusal(request, grpc.StatusCode.INTERNAL, "internal error", stamps)
        finally:
            self.demand.went(request)

    def _execute(self, request: replica_pb2.PackedBatch, stamps: Stamps) -> replica_pb2.PackedAnswer:
        """On the runner's thread. `stamps` is filled as far as the batch gets, whether or not it gets an answer."""
        assert self._runner is not None, "This is a bug."
        stamps.started_ns = time.perf_counter_ns()
        try:
            computed = self._runner.run(request, (stamps.started_ns - stamps.received_ns) / 1e9)
        finally:
            stamps.passed = self._runner.stopwatch.read()
        return replica_pb2.PackedAnswer(
            columns=computed.columns,
            status=computed.status,
            stamps=stamps.wire(),
            queued=self._thread.waiting,
            batch_id=request.batch_id,
            padded_tokens=computed.padded_tokens,
        )


def _refusal(
    request: replica_pb2.PackedBatch, code: grpc.StatusCode, sentence: str, stamps: Stamps
) -> replica_pb2.PackedAnswer:
    return replica_pb2.PackedAnswer(
        batch_id=request.batch_id, code=code.value[0], message=sentence, stamps=stamps.wire()
    )


def _ids(request: replica_pb2.PackedBatch) -> dict[str, str]:
    """Where a batch is found in the traces."""
    asker = context.unpack(request.context)
    return {"trace_id": asker.trace_id.hex(), "batch_id": f"{request.batch_id:016x}"} if asker else {}
