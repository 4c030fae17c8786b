"""What a gateway says of itself, in logs and figures, over its life; and what it forgets."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.client import request
from headrace.config import GatewaySettings
from headrace.gateway.server import Gateway
from headrace.gateway.siblings import Siblings, summed
from headrace.telemetry import reading
from headrace.telemetry.logging import JsonLines
from headrace.testing.control import FakeControl
from headrace.testing.gateway import running_gateway, settings
from headrace.testing.replica import FakeReplica
from headrace.v1 import control_pb2

Run = Callable[..., Any]
CARD = 4111111111111111


def question(**changes: Any) -> Any:
    columns = {"events": np.zeros((1, 3, 2), np.float32), "key": np.array([[CARD]], np.int64)}
    return request("echo", columns, **changes)


async def metrics(gateway: Gateway) -> str:
    address = f"http://127.0.0.1:{gateway.metrics_port}/metrics"
    page = await asyncio.to_thread(lambda: urllib.request.urlopen(address).read())
    return str(page.decode())


def test_every_refused_or_failed_request_leaves_one_line_with_its_trace_and_nothing_of_its_payload(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong_type = question(request_id=f"order-{CARD}")
    wrong_type.inputs[0].name = f"{CARD}"
    late = question()
    late.parameters["timeout"].int64_param = 1
    not_finite = question()
    not_finite.raw_input_contents[0] = np.full((1, 3, 2), np.nan, np.float32).tobytes()

    async def main() -> list[str]:
        async with (
            FakeReplica() as replica,
            running_gateway(tmp_path, [replica]) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            traces = []
            for message in (wrong_type, late, not_finite, question(), request("nobody", {})):
                call = stub.ModelInfer(message, timeout=5)
                await asyncio.wait([asyncio.ensure_future(call.code())])
                traces.append(str((await call.trailing_metadata())["traceparent"])[3:35])
            replica.change = lambda answer: answer.columns.append(b"more")
            call = stub.ModelInfer(question(), timeout=5)
            await call.code()
            traces.append(str((await call.trailing_metadata())["traceparent"])[3:35])
            return traces

    with caplog.at_level(logging.INFO, "headrace.requests"):
        traces = run(main())

    lines = [json.loads(JsonLines().format(r)) for r in caplog.records if r.name == "headrace.requests"]
    answered = traces.pop(3)
    assert [line["trace_id"] for line in lines] == traces
    assert answered not in traces
    assert [(line["level"], line["message"], line["code"]) for line in lines] == [
        ("INFO", "InvalidInference", "INVALID_ARGUMENT"),
        ("INFO", "DeadlinePassed", "UNAVAILABLE"),
        ("INFO", "InvalidInference", "INVALID_ARGUMENT"),
        ("INFO", "UnknownModel", "NOT_FOUND"),
        ("WARNING", "BrokenContract", "INTERNAL"),
    ]
    assert lines[2]["batch_id"]
    assert lines[2]["model"] == "echo"
    assert lines[3]["model"] == ""
    assert str(CARD) not in json.dumps(lines)


def test_an_error_of_ours_is_internal_to_the_caller_the_metrics_and_the_trace(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError(f"card {CARD}")

    monkeypatch.setattr("headrace.gateway.codec.Decoder.decode", broken)

    async def main() -> tuple[aio.AioRpcError, str]:
        async with (
            FakeReplica() as replica,
            running_gateway(tmp_path, [replica]) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            with pytest.raises(aio.AioRpcError) as caught:
                await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(question(), timeout=5)
            assert gateway.admission.held == 0
            return caught.value, await metrics(gateway)

    error, page = run(main())
    trace_id = str(dict(error.trailing_metadata())["traceparent"])[3:35]
    (trace,) = reading.find(tmp_path, trace_id)

    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert 'code="INTERNAL",model="echo"' in page
    assert trace.rpc.attributes["headrace.reason"] == "ValueError"
    assert trace.rpc.attributes["headrace.keep"] == "failed"


def test_a_version_that_is_gone_for_long_is_forgotten_with_its_metrics(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[str, str, str]:
        async with (
            FakeReplica() as replica,
            running_gateway(tmp_path, [replica], gateway__retire_after_s=0.3) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            await stub.ModelInfer(question(), timeout=5)
            await asyncio.sleep(0.6)
            idle = await metrics(gateway)
            gone = replica.registration
            gone.state = control_pb2.REPLICA_STATE_DRAINING
            gateway.models.apply(control_pb2.Snapshot(replicas=[gone]))
            gateway.models.apply(control_pb2.Snapshot())
            just_gone = await metrics(gateway)
            async with asyncio.timeout(5):
                while gateway.models.lanes():
                    await asyncio.sleep(0.05)
            with pytest.raises(aio.AioRpcError, match="is not found"):
                await stub.ModelInfer(question(), timeout=5)
            return idle, just_gone, await metrics(gateway)

    idle, just_gone, forgotten = run(main())

    assert 'nv_inference_count{model="echo"' in idle
    assert 'nv_inference_count{model="echo"' in just_gone
    assert 'model="echo"' not in forgotten


def test_siblings_are_summed_and_one_that_is_away_is_left_out(run: Run, tmp_path: Path, free_port: int) -> None:
    async def main() -> list[Any]:
        async with (
            FakeReplica() as replica,
            running_gateway(tmp_path, [replica]) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            await stub.ModelInfer(question(), timeout=5)
            await stub.ModelInfer(question(), timeout=5)
            there = Siblings(GatewaySettings(metrics_port=gateway.metrics_port - 1, processes=2, index=0))
            away = Siblings(GatewaySettings(metrics_port=free_port, processes=2, index=1))
            own = await stub.ModelStatistics(service_pb2.ModelStatisticsRequest())
            theirs = await there.statistics()
            assert await away.statistics() == []
            return [own, summed([own, *theirs])]

    own, both = run(main())

    assert own.model_stats[0].inference_stats.success.count == 2
    assert both.model_stats[0].inference_stats.success.count == 4
    assert both.model_stats[0].execution_count == 4
    assert both.model_stats[0].inference_stats.queue.ns == 2 * own.model_stats[0].inference_stats.queue.ns
    assert [b.batch_size for b in both.model_stats[0].batch_stats] == [1]
    assert both.model_stats[0].batch_stats[0].compute_infer.count == 4


def test_the_command_line_draws_lists_and_says_what_is_missing(run: Run, tmp_path: Path) -> None:
    def headrace(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "headrace", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    async def main() -> str:
        async with (
            FakeReplica() as replica,
            running_gateway(tmp_path, [replica]) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            await asyncio.gather(*(stub.ModelInfer(question(), timeout=5) for _ in range(12)))
            address = f"127.0.0.1:{gateway.metrics_port}"
            shown = await asyncio.to_thread(headrace, "top", "--once", "--every", "0.2", address)
            return shown.stdout

    shown = run(main())
    one = reading.latest(tmp_path)
    assert one is not None
    drawn = headrace("trace", one.rpc.trace_id[:12], "--dir", str(tmp_path))
    listed = headrace("trace", "--slowest", "5", "--dir", str(tmp_path))
    missing = headrace("trace", "ffff", "--dir", str(tmp_path / "nowhere"))

    assert "echo" in shown
    assert "replicas" in shown
    for word in ("rpc", "queue", "execute", "batch", "dispatch", "replica.batch", "where the time went"):
        assert word in drawn.stdout
    assert len(listed.stdout.splitlines()) == 6
    assert listed.stdout.splitlines()[1].split()[-1] == "OK"
    assert (missing.returncode, missing.stderr.count("\n")) == (78, 1)


def test_callers_who_come_before_the_first_snapshot_wait_for_it(
    run: Run, tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As whoever has a gateway's address does that was started again: nobody is told that it is starting."""
    monkeypatch.setattr("headrace.gateway.server.HEARING_S", 10.0)

    async def main() -> Any:
        async with FakeReplica() as replica:
            control = FakeControl()
            control.port = free_port
            await control.say([replica.registration])
            gateway = Gateway(settings(tmp_path), control.address)
            starting = asyncio.create_task(gateway.start())
            while not gateway.port:
                await asyncio.sleep(0.001)
            async with aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                call = stub.ModelInfer(question(), timeout=10)
                await asyncio.wait([asyncio.ensure_future(call.code())], timeout=0.1)
                async with control:
                    answer = await call
                    await starting
                    await gateway.stop()
            return answer

    assert run(main()).model_name == "echo"
