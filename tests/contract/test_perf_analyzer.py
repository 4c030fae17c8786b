"""What NVIDIA's load generator asks, in its order, and what it needs of the answers: else it aborts, or loses samples.

Source: perf_analyzer's `perf_analyzer.cc`, `model_parser.cc`, `inference_profiler.cc` and `infer_context.cc`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from tests.oip import Run, Stub, columns, value, with_gateway
from tritonclient.grpc import service_pb2

from headrace.client import request

THREADS, EACH = 3, 4
KINDS = ("success", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")


async def statistics(stub: Stub) -> Any:
    asked = service_pb2.ModelStatisticsRequest(name="echo", version="1")
    (found,) = (await stub.ModelStatistics(asked)).model_stats
    return found


async def window(stub: Stub) -> tuple[Any, Any, list[bool]]:
    """Figures before and after some requests of several threads, and whether each had its own id and answer."""

    async def ask(thread: int, number: int) -> bool:
        name = str(thread << 48 | number)
        answer = await stub.ModelInfer(request("echo", columns(key=number), request_id=name))
        return answer.id == name and value(answer) == [6.0 + number]

    before = await statistics(stub)
    mine = await asyncio.gather(*(ask(thread, number) for thread in range(THREADS) for number in range(EACH)))
    return before, await statistics(stub), mine


def test_its_calls_in_their_order_find_what_it_needs(run: Run, tmp_path: Path) -> None:
    async def body(stub: Stub, *_: Any) -> Any:
        metadata = await stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="echo", version="1"))
        config = await stub.ModelConfig(service_pb2.ModelConfigRequest(name="echo", version="1"))
        server = await stub.ServerMetadata(service_pb2.ServerMetadataRequest())
        return metadata, config, server, [await window(stub) for _ in range(2)]

    metadata, config, server, windows = with_gateway(run, tmp_path, body)

    read = json_format.MessageToDict(config.config, preserving_proto_field_name=True)
    for side in ("input", "output"):
        assert {one["name"] for one in read[side]} == {one.name for one in getattr(metadata, f"{side}s")}
    assert read["max_batch_size"] == 32
    assert all(tensor.shape[0] == -1 for tensor in (*metadata.inputs, *metadata.outputs))
    assert "dynamic_batching" in read
    assert "sequence_batching" not in read
    assert read["platform"] != "ensemble"
    assert "statistics" in server.extensions
    for before, after, mine in windows:
        assert mine == [True] * THREADS * EACH
        held_to(before, after)
    assert windows[1][0].inference_stats.success.count == THREADS * EACH


def held_to(before: Any, after: Any) -> None:
    """Each figure of a window grew by what was asked, and the parts of the time fit into the whole."""
    assert int(after.version) == 1
    assert after.last_inference >= before.last_inference
    count, ns = {}, {}
    for kind in KINDS:
        early, late = getattr(before.inference_stats, kind), getattr(after.inference_stats, kind)
        count[kind], ns[kind] = late.count - early.count, late.ns - early.ns
    asked, batches = THREADS * EACH, after.execution_count - before.execution_count
    assert after.inference_count - before.inference_count == asked
    assert 1 <= batches <= asked
    assert count == dict.fromkeys(KINDS[:5], asked) | {"cache_hit": 0, "cache_miss": 0}
    assert 0 < sum(ns[kind] for kind in KINDS[1:5]) <= ns["success"]
    run = {size.batch_size: size for size in after.batch_stats}
    for size in before.batch_stats:
        assert run[size.batch_size].compute_infer.count >= size.compute_infer.count
    for stage in ("compute_input", "compute_infer", "compute_output"):
        assert sum(getattr(size, stage).count for size in after.batch_stats) == after.execution_count
