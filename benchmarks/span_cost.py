"""What tracing costs apart from everything else, microseconds a request: python benchmarks/span_cost.py

On the event loop: the context read, the record, the metrics, the append. Off it: a batch and its members told,
as protobuf and as JSON. The smallest of several repeats: what the code costs on a core of its own.
"""

from __future__ import annotations

import json
import random
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry

from headrace.config import TelemetrySettings
from headrace.core.clock import MonotonicClock
from headrace.core.records import BatchRecord, DispatchRecord, ReplicaIdentity, RpcRecord, Stages
from headrace.gateway.observer import Observer
from headrace.telemetry.catalogue import Catalogue, Page
from headrace.telemetry.context import Sampling, header
from headrace.telemetry.form import Encoding
from headrace.telemetry.metrics import GatewayMetrics
from headrace.telemetry.otlp_json import JsonEncoding
from headrace.telemetry.otlp_protobuf import ProtobufEncoding
from headrace.telemetry.request_log import RequestLog
from headrace.telemetry.tracing import Tracer

MS = 1_000_000
METHOD = "inference.GRPCInferenceService/ModelInfer"


class Call:
    """As much of a gRPC context as the observer asks of it."""

    caller = meter = None
    metadata = (("user-agent", "x"), ("traceparent", header(b"t" * 16, 5, sampled=True)))

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self.metadata

    def peer(self) -> str:
        return "ipv4:127.0.0.1:5000"


def batch(rows: int) -> BatchRecord:
    stages = Stages(*(MS * n for n in range(1, 8)))
    dispatch = DispatchRecord(6, 1, ReplicaIdentity("r", "h", "cpu", "float32"), 2, 3, 900, stages=stages)
    made = BatchRecord(b"b" * 16, random.getrandbits(62), "m", "1", "primary", 2, "slot", 1, rows, 40 * rows)
    made.dispatches, made.settled_ns = [dispatch], 3
    for row in range(rows):
        made.members.append(
            RpcRecord(
                random.randbytes(16), row + 1, 5, True, 0, METHOD, "ipv4:127.0.0.1:5000", "", "m", "1",
                tokens=40, queued_ns=1, closed_ns=2, settled_ns=3, end_ns=4, deadline_ns=9 * MS, row=row, batch=made,
            )
        )  # fmt: skip
    return made


def per_request_us(work: Callable[[], object], requests: int) -> float:
    number = max(1, 4000 // requests)
    return round(min(timeit.repeat(work, number=number, repeat=7)) / number / requests * 1e6, 2)


def telling(encoding: Encoding, rows: int) -> float:
    catalogue, told = Catalogue(encoding, (("server.address", "h"), ("server.port", 8001)), 512), batch(rows)
    return per_request_us(lambda: catalogue.family(told, [""] * rows, Page()), rows)


def on_the_loop(*, sampled: bool, folder: Path) -> float:
    """A request's share, its batch's (of eight) included."""
    metrics, clock = GatewayMetrics(CollectorRegistry()), MonotonicClock()
    tracer = Tracer("cost", TelemetrySettings(trace_dir=folder, max_waiting=1), "c")
    observer = Observer(tracer, metrics, RequestLog(), clock, Sampling(1.0 if sampled else 0.0, by_caller=False))

    def eight() -> None:
        family = batch_of_eight()
        family.members = [observer.begin(METHOD, Call()) for _ in range(8)]  # type: ignore[arg-type]
        for record in family.members:
            record.model, record.version, record.batch = "m", "1", family
            record.queued_ns, record.closed_ns, record.settled_ns = record.start_ns, record.start_ns, record.start_ns
        family.unfinished = 9
        observer.batch(family)
        for record in family.members:
            observer.succeeded(record)

    def batch_of_eight() -> BatchRecord:
        made = BatchRecord(b"b" * 16, 7, "m", "1", "primary", 2, "slot", 1, 8, 320)
        made.dispatches = template.dispatches
        return made

    template = batch(8)
    return per_request_us(eight, 8)


def measure() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "on the loop, sampled": on_the_loop(sampled=True, folder=Path(folder)),
            "on the loop, not sampled": on_the_loop(sampled=False, folder=Path(folder)),
        }
    for rows in (1, 8, 32):
        found[f"told as protobuf, batch of {rows}"] = telling(ProtobufEncoding(), rows)
        found[f"told as JSON, batch of {rows}"] = telling(JsonEncoding(), rows)
    return found


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
