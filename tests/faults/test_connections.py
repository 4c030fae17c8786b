"""Connections that nobody reads, and connections whose other end is not there any more."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import http2
import pytest
from google.protobuf.message import Message
from grpc import aio
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests import processes
from tests.faults import patient
from tests.faults.bounds import BOUNDS
from tests.faults.load import DEADLINE_S, Load
from tests.faults.network import MAY_DROP, connected, dropped
from tests.faults.rig import Rig, report
from tritonclient.grpc import service_pb2_grpc

from headrace.client import request

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]
METHOD = "/inference.GRPCInferenceService/ModelInfer"
SYMBOL = "inference.GRPCInferenceService"
CONNECTIONS, CALLS = 40, 5
SCHEMAS, INFERENCES, QUESTIONS = 20, 2, 400
UNREAD_S = 8.0
MAX_GROWTH_MIB = 64.0
DROPPED_S = 6.0
DROPS = pytest.mark.skipif(not MAY_DROP, reason="only root can have packets dropped")


def unread_calls(target: str) -> list[http2.Connection]:
    """Connections with many calls each, and nobody who reads what comes of them. Blocks."""
    message = request(patient.NAME, patient.columns(1)).SerializeToString()
    made = [http2.Connection(target, METHOD, lambda *_: None) for _ in range(CONNECTIONS)]
    for connection in made:
        for number in range(CALLS):
            connection.call(number, message, DEADLINE_S)
        connection.flush()
    return made


async def ask_on(call: aio.StreamStreamCall, question: Message, count: int, pause_s: float) -> None:
    """Ends when all of it has been taken, by the gateway or by buffers on the way."""
    for _ in range(count):
        await call.write(question)
        await asyncio.sleep(pause_s)


@contextlib.asynccontextmanager
async def unread_schemas(target: str) -> AsyncIterator[None]:
    """Streams of reflection on which much is asked: some 20 KiB an answer, none of which is read."""
    question = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SYMBOL)
    async with aio.insecure_channel(target, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        calls = [reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo() for _ in range(SCHEMAS)]
        async with asking([ask_on(call, question, QUESTIONS, 0) for call in calls]):
            assert (await calls[0].read()).file_descriptor_response.file_descriptor_proto
            yield


@contextlib.asynccontextmanager
async def unread_inferences(target: str) -> AsyncIterator[None]:
    """Streams of inferences at a rate that is no load, none of whose answers is read: each is held back in the end."""
    question = request(patient.NAME, patient.columns(1))
    question.parameters["ours"].string_param = "x" * (8 << 10)  # so that windows are soon full
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0))
    async with aio.insecure_channel(target, options) as channel:
        calls = [service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer() for _ in range(INFERENCES)]
        async with asking([ask_on(call, question, 3 * QUESTIONS, 0.004) for call in calls]) as tasks:
            assert (await calls[0].read()).infer_response.raw_output_contents
            yield
            assert not any(task.done() for task in tasks)


@contextlib.asynccontextmanager
async def asking(asked: list[Coroutine[Any, Any, None]]) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(one) for one in asked]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_clients_that_ask_and_stop_reading(rig: Rig) -> None:
    """Streams and single calls alike. The gateway holds a bounded part for them, and all others are answered."""
    bound = BOUNDS["unread"]
    gateway = rig.gateways[0].pid
    assert gateway is not None

    async def main() -> tuple[Load, float, int, float, float]:
        async with rig.loaded() as load:
            before_mib, before = processes.resident_mib(gateway), processes.sockets(gateway)
            made = await asyncio.to_thread(unread_calls, rig.targets[0])
            async with unread_schemas(rig.targets[0]), unread_inferences(rig.targets[0]):
                await asyncio.sleep(UNREAD_S)
                growth_mib, held = processes.resident_mib(gateway) - before_mib, processes.sockets(gateway) - before
            for connection in made:
                connection.close()
            fault_s = time.monotonic()
            async with asyncio.timeout(bound.whole_s):
                while processes.sockets(gateway) > before:
                    await asyncio.sleep(0.05)
            whole_at = await rig.until_whole(bound.whole_s)
            await load.answered()
        return load, growth_mib, held, fault_s, whole_at

    load, growth_mib, held, fault_s, whole_at = rig.run(main())

    report(f"clients that stop reading (+{growth_mib:.0f} MiB)", load, bound, fault_s, whole_at)
    assert load.told() == {}
    assert held > CONNECTIONS
    assert growth_mib < MAX_GROWTH_MIB


@DROPS
def test_packets_dropped_between_gateway_and_replica(rig: Rig) -> None:
    """As when a host vanishes, but that it comes back: given up and asked again, and nobody replaces it."""
    bound = BOUNDS["half-open"]

    async def main() -> tuple[Load, bool, float, float]:
        async with rig.loaded() as load:
            before = await rig.replicas()
            _, port = next(iter(before.values())).endpoint.rsplit(":", 1)
            with dropped(int(port)):
                await asyncio.sleep(DROPPED_S)
            fault_s = time.monotonic()
            whole_at = await rig.until_whole(bound.whole_s)
            await load.answered()
            same = set(before) == set(await rig.replicas())
        return load, same, fault_s, whole_at

    load, same, fault_s, whole_at = rig.run(main())

    report("half-open: gateway to replica", load, bound, fault_s, whole_at)
    assert load.told() == {}
    assert same


@DROPS
def test_a_client_that_vanishes_without_a_word(rig: Rig) -> None:
    """In the middle of its calls. They end at their deadline, and its connection when it answers no ping."""
    bound = BOUNDS["vanished"]
    message = request(patient.NAME, patient.columns(1, patient.HELD, 0.1)).SerializeToString()
    served = int(rig.targets[0].rsplit(":", 1)[1])

    async def main() -> tuple[Load, float, float]:
        async with rig.loaded(callers=2) as load:
            vanishing = http2.Connection(rig.targets[0], METHOD, lambda *_: None)
            port = vanishing.socket.getsockname()[1]
            for number in range(20):
                vanishing.call(number, message, DEADLINE_S)
            vanishing.flush()
            await rig.until_held()
            fault_s = time.monotonic()
            with dropped(port):
                assert connected(served, port)
                async with asyncio.timeout(bound.whole_s):
                    while connected(served, port):
                        await asyncio.sleep(0.1)
                whole_at = await rig.until_whole(bound.whole_s)
                await load.answered()
            vanishing.close()
        return load, fault_s, whole_at

    load, fault_s, whole_at = rig.run(main(), 180)

    report("half-open: a client vanishes", load, bound, fault_s, whole_at)
    assert load.told() == {}
