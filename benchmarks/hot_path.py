"""What the gateway's own Python costs apart from grpc, microseconds a request: python benchmarks/hot_path.py

No sockets: the real servicer, lane, dispatcher and observer, and a replica that answers at once. So many callers that
batches hold 8 and 32 rows; a stopwatch around each step, so each figure holds about 0.2 µs of its own. `queue, loop`
is what is left of the whole: tasks, futures and timers, the queue and the policy, the batch's own messages. The least
of many short rounds: what the code costs on a core of its own.
"""

from __future__ import annotations

import asyncio
import gc
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import asking
import numpy as np
import span_cost
import uvloop
from prometheus_client import CollectorRegistry
from tritonclient.grpc import service_pb2

from headrace import config
from headrace.client import request
from headrace.core.clock import MonotonicClock
from headrace.credentials import NOBODY
from headrace.gateway import codec, dispatch, lane, servicer
from headrace.gateway.admission import Admission
from headrace.gateway.idempotency import Repeats
from headrace.gateway.link import ReplicaLink, Sender
from headrace.gateway.model_control import ModelControl
from headrace.gateway.models import Models
from headrace.gateway.observer import Observer
from headrace.gateway.pressure import Pressure
from headrace.gateway.shadow import Surroundings
from headrace.gateway.telling import PairTeller
from headrace.serving import weights
from headrace.telemetry.context import Sampling
from headrace.telemetry.metrics import GatewayMetrics
from headrace.telemetry.request_log import RequestLog
from headrace.telemetry.tracing import Tracer
from headrace.v1 import control_pb2, replica_pb2

BATCHES = (8, 32)
REQUESTS = 1600
ROUNDS = 25
STEPS = (
    ("decode", codec.Decoder, "decode"),
    ("encode", servicer, "encode"),
    ("pack, message", dispatch, "pack"),
    ("pack, message", dispatch.Dispatcher, "_message"),
    ("settle", lane, "settle"),
    ("observe", Observer, "begin"),
    ("observe", Observer, "batch"),
    ("observe", Observer, "succeeded"),
)
"""Step, and where its functions are looked up when they are called. None of them calls another."""
PROTOBUF = "protobuf in and out"
REST = "queue, loop"


class Call(span_cost.Call):
    """As much of a gRPC context as the servicer asks of it."""

    def time_remaining(self) -> None:
        return None

    def set_trailing_metadata(self, _: Any) -> None:
        pass


def measure() -> dict[str, dict[str, float]]:
    """Batch → step → microseconds a request."""
    return {f"batches of {rows}": uvloop.run(steps_us(rows)) for rows in BATCHES}


async def steps_us(rows: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder, answering_at_once():
        service = gateway(Path(folder))
        events = np.random.default_rng(1).normal(size=(1, 32, 16)).astype(np.float32)
        asked = request("w1-encoder", {"events": events}).SerializeToString()
        await load(service, asked, rows, Counter())  # the first round is the warm-up
        gc.collect()
        rounds = []
        for _ in range(ROUNDS):
            spent: Counter[str] = Counter()
            with watched(spent):
                spent["all"] = await load(service, asked, rows, spent)
            rounds.append(spent)
        await service.models.close()
    return told(rounds, REQUESTS)


def told(rounds: list[Counter[str]], requests: int) -> dict[str, float]:
    """The round that took least, a request: the steps, what is left between them, and all."""
    best = min(rounds, key=lambda spent: spent["all"])
    steps = {name: best[name] for name in (PROTOBUF, *dict.fromkeys(step for step, _, _ in STEPS))}
    whole = {**steps, REST: best["all"] - sum(steps.values()), "all": best["all"]}
    return {name: round(ns / requests / 1000, 2) for name, ns in whole.items()}


def gateway(folder: Path) -> servicer.InferenceServicer:
    """A gateway without a server, whose tracer's thread does not run: it would be measured with the loop."""
    settings, clock, pressure = config.load(None, {}, telemetry__trace_dir=folder), MonotonicClock(), Pressure()
    metrics = GatewayMetrics(CollectorRegistry())
    tracer = Tracer("hot-path", settings.telemetry, "gateway")
    observer = Observer(tracer, metrics, RequestLog(), clock, Sampling(1.0, by_caller=False))
    around = Surroundings(Sender("gateway"), clock, pressure, observer.batch)
    models = Models(settings, around, metrics.forget, PairTeller("", Sender("gateway")).notes)
    spec = weights.wire_spec(weights.read(asking.W1))
    ready = control_pb2.REPLICA_STATE_READY
    replica = control_pb2.Registration(replica_id="replica", endpoint="127.0.0.1:1", spec=spec, state=ready)
    models.apply(control_pb2.Snapshot(version=1, replicas=[replica]))
    admission, control = Admission(8192, clock, pressure), ModelControl(settings.control, "", NOBODY, models)
    repeats = Repeats(settings.gateway, clock)
    return servicer.InferenceServicer(models, admission, observer, settings.gateway, control, repeats)


async def load(service: servicer.InferenceServicer, asked: bytes, callers: int, spent: Counter[str]) -> int:
    """REQUESTS from so many callers. Returns: how long they took, ns."""

    async def caller() -> None:
        for _ in range(REQUESTS // callers):
            begun = time.perf_counter_ns()
            message = service_pb2.ModelInferRequest.FromString(asked)
            spent[PROTOBUF] += time.perf_counter_ns() - begun
            response = await service.ModelInfer(message, Call())
            begun = time.perf_counter_ns()
            response.SerializeToString()
            spent[PROTOBUF] += time.perf_counter_ns() - begun

    begun = time.perf_counter_ns()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return time.perf_counter_ns() - begun


@contextmanager
def watched(spent: Counter[str]) -> Iterator[None]:
    """A stopwatch around every step."""
    with ExitStack() as stack:
        for step, owner, name in STEPS:
            stack.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name), step, spent)))
        yield


def timed(function: Callable[..., Any], step: str, spent: Counter[str]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        begun = time.perf_counter_ns()
        try:
            return function(*arguments)
        finally:
            spent[step] += time.perf_counter_ns() - begun

    return call


@contextmanager
def answering_at_once() -> Iterator[None]:
    """A replica's answer without a replica: both messages are serialised and parsed, as on the wire."""

    async def execute(_: ReplicaLink, batch: replica_pb2.PackedBatch, *__: Any) -> replica_pb2.PackedAnswer:
        batch.SerializeToString()
        await asyncio.sleep(0)
        names = ("received_ns", "started_ns", "unpacked_ns", "copied_ns", "computed_ns", "fetched_ns", "packed_ns")
        stamps = replica_pb2.Stamps(**dict.fromkeys(names, time.time_ns()))
        rows = batch.rows
        answer = replica_pb2.PackedAnswer(columns=[bytes(4 * rows)], status=bytes(rows), stamps=stamps)
        return replica_pb2.PackedAnswer.FromString(answer.SerializeToString())

    with mock.patch.object(ReplicaLink, "execute", execute):
        yield


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
