"""KEDA's questions, asked as KEDA asks them: one gateway answers for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio
from tests.rpc import until
from tritonclient.grpc import service_pb2_grpc

from headrace.client import request
from headrace.config import Settings
from headrace.gateway.server import Gateway
from headrace.keda import externalscaler_pb2 as pb
from headrace.keda import externalscaler_pb2_grpc
from headrace.telemetry import pages
from headrace.testing.control import FakeControl
from headrace.testing.gateway import settings
from headrace.testing.replica import FakeReplica

Run = Callable[..., Any]
WAITING = {"models__echo": {"batching": {"max_queue_delay_us": 20_000_000}}}
"""A lane that waits for company although its replica is idle: what waits is the gateway's doing."""


def question(key: int) -> Any:
    return request("echo", {"events": np.zeros((1, 3, 2), np.float32), "key": np.array([[key]], np.int64)})


def scaled(**metadata: str) -> pb.ScaledObjectRef:
    return pb.ScaledObjectRef(name="gateways", namespace="pay", scalerMetadata=metadata)


@contextlib.asynccontextmanager
async def asking(gateway: Gateway) -> AsyncIterator[Any]:
    async with aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        yield externalscaler_pb2_grpc.ExternalScalerStub(channel)


async def queued_s(gateway: Gateway) -> float:
    async with asking(gateway) as stub:
        answer = await stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=scaled(), metricName="queued_seconds"))
    (value,) = answer.metricValues
    assert value.metricName == "queued_seconds"
    return float(value.metricValueFloat)


@contextlib.asynccontextmanager
async def waiting(gateway: Gateway, riders: int) -> AsyncIterator[None]:
    """So many requests that wait at this gateway."""
    async with aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        calls = [stub.ModelInfer(question(key), timeout=30) for key in range(riders)]
        await until(lambda: sum(len(lane.queue) for lane in gateway.models.lanes()) == riders)
        yield
        for call in calls:
            call.cancel()


@contextlib.asynccontextmanager
async def two_gateways(tmp_path: Path, ports: list[int], *more: str) -> AsyncIterator[list[Gateway]]:
    """Over one replica, each named to both; `more` are named as well."""
    peers = (*[f"127.0.0.1:{port}" for port in ports], *more)

    def chosen(port: int) -> Settings:
        return settings(tmp_path, gateway__metrics_port=port, gateway__peers=peers, **WAITING)

    async with FakeReplica() as replica, FakeControl() as control:
        await control.say([replica.registration])
        async with (
            Gateway(chosen(ports[0]), control.address) as one,
            Gateway(chosen(ports[1]), control.address) as two,
        ):
            await one.wait_ready(10)
            await two.wait_ready(10)
            yield [one, two]


@pytest.fixture
def free_ports() -> list[int]:
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        probes = (one, two, three)
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def test_whichever_gateway_is_asked_answers_for_all_of_them_and_counts_each_once(
    run: Run, tmp_path: Path, free_ports: list[int]
) -> None:
    async def main() -> tuple[list[float], list[float], list[float]]:
        async with two_gateways(tmp_path, free_ports[:2]) as (first, second):
            idle = [await queued_s(first), await queued_s(second)]
            async with waiting(first, 3):
                await until(lambda: first.queued.mean_s)
                one = [await queued_s(gateway) for gateway in (first, second, first)]
                async with waiting(second, 5):
                    await until(lambda: second.queued.mean_s)
                    both = [first.queued.mean_s + second.queued.mean_s]
                    both += [await queued_s(second), await queued_s(first)]
                    both += [first.queued.mean_s + second.queued.mean_s]
            return idle, one, both

    idle, one, both = run(main())

    assert idle == [0.0, 0.0]
    assert 0 < one[0] <= one[1] <= one[2]  # the mean rises while it is asked for
    assert both == sorted(both)


def test_one_that_does_not_answer_is_left_out_in_bounded_time_and_told_once(
    run: Run, tmp_path: Path, free_ports: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    hearing = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hearing.set()
        await reader.read()  # until whoever asked has given up
        writer.close()

    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        deaf = await asyncio.start_server(silent, "127.0.0.1", 0)
        mute = f"127.0.0.1:{deaf.sockets[0].getsockname()[1]}"
        dead, nowhere = f"127.0.0.1:{free_ports[2]}", "no-such-gateway.invalid:1"
        async with two_gateways(tmp_path, free_ports[:2], mute, dead, nowhere) as gateways, waiting(gateways[1], 3):
            await until(lambda: gateways[1].queued.mean_s)
            begun = loop.time()
            found = [await queued_s(gateways[0]), await queued_s(gateways[0])]
            took_s = loop.time() - begun
            deaf.close()
        return found[0], took_s

    with caplog.at_level(logging.WARNING, "headrace.gateway.peers"):
        found, took_s = run(main())

    assert hearing.is_set()
    assert found > 0
    assert took_s < 2 * 2.5
    assert len([record for record in caplog.records if record.name == "headrace.gateway.peers"]) == 3


def test_a_name_stands_for_all_of_its_addresses(
    run: Run, tmp_path: Path, free_ports: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a headless Service does."""
    port = free_ports[0]
    real = socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **more: Any) -> Any:
        if host == "gateways.pay.svc":
            return [found for address in ("127.0.0.1", "127.0.0.2") for found in real(address, *rest, **more)]
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)

    async def main() -> list[float]:
        async with FakeReplica() as replica, FakeControl() as control, contextlib.AsyncExitStack() as stack:
            await control.say([replica.registration])
            found = []
            for host in ("127.0.0.1", "127.0.0.2"):
                named = {"gateway__metrics_port": port, "gateway__peers": (f"gateways.pay.svc:{port}",)}
                chosen = settings(tmp_path, gateway__host=host, **named, **WAITING)
                found.append(await stack.enter_async_context(Gateway(chosen, control.address)))
                await found[-1].wait_ready(10)
            address = f"127.0.0.2:{found[1].port}"
            channel = await stack.enter_async_context(aio.insecure_channel(address))
            held = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(question(1), timeout=30)
            await until(lambda: found[1].queued.mean_s)
            answers = []
            for _ in range(2):
                told = json.loads(await asyncio.to_thread(pages.fetch, f"127.0.0.2:{port}", "/queued", 5))
                answers += [told["seconds"], await queued_s(found[0])]
            held.cancel()
            return answers

    answers = run(main())

    assert answers == sorted(answers)
    assert answers[0] > 0


def test_what_waits_for_replicas_asks_for_no_gateway(run: Run, tmp_path: Path) -> None:
    async def main() -> list[float]:
        async with FakeReplica() as replica, FakeControl() as control:
            await control.say([replica.registration])
            async with (
                Gateway(settings(tmp_path), control.address) as gateway,
                aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
            ):
                await gateway.wait_ready(10)
                replica.delay_s = 5.0
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                calls = [stub.ModelInfer(question(key), timeout=30) for key in range(200)]
                (lane,) = gateway.models.lanes()
                await until(lambda: lane.dispatcher.flights and len(lane.queue))
                found = [await queued_s(gateway)]  # a look may have fallen between their coming and the first batch
                await asyncio.sleep(0.5)
                found.append(await queued_s(gateway))
                assert len(lane.queue), "they wait all the time"
                for call in calls:
                    call.cancel()
                return found

    first, later = run(main())

    assert later <= first < 0.01


def test_a_target_is_read_from_the_trigger_and_a_wrong_one_is_named(run: Run, tmp_path: Path) -> None:
    async def code(stub: Any, **metadata: str) -> tuple[str, str]:
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.GetMetricSpec(scaled(**metadata))
        return caught.value.code().name, str(caught.value.details())

    async def main() -> tuple[Any, ...]:
        async with Gateway(settings(tmp_path), "127.0.0.1:1") as gateway, asking(gateway) as stub:
            spec = await stub.GetMetricSpec(scaled(queuedSeconds="0.05", scalerAddress="x:1"))
            wrong = [await code(stub, queuedSeconds=text) for text in ("", "0", "-1", "nan", "inf", "50 ms")]
            missing = await code(stub, queuedseconds="1")
            active = (await stub.IsActive(scaled())).result
            pushed = stub.StreamIsActive(scaled())
            first = (await pushed.read()).result
            pushed.cancel()
            streamed = await stub.StreamMetricSpec(scaled(queuedSeconds="1")).code()
            return spec, wrong, missing, (active, first), streamed

    spec, wrong, missing, active, streamed = run(main())

    (one,) = spec.metricSpecs
    assert (one.metricName, one.targetSizeFloat) == ("queued_seconds", 0.05)
    assert {name for name, _ in (*wrong, missing)} == {"INVALID_ARGUMENT"}
    assert wrong[-1][1] == "the trigger's metadata: queuedSeconds is '50 ms', not a number of seconds above 0"
    assert "queuedSeconds is missing" in missing[1]
    assert active == (True, True)
    assert streamed is grpc.StatusCode.UNIMPLEMENTED
