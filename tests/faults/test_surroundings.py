"""What is around it breaks: the disk is full, clocks step, the collector does not listen."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from tests import processes
from tests.faults import patient
from tests.faults.bounds import BOUNDS
from tests.faults.load import Load, stub_of
from tests.faults.rig import Rig, report
from tests.sink import Sink
from tritonclient.grpc import service_pb2

from headrace.children import Child
from headrace.telemetry import reading
from headrace.v1 import experiments_pb2, experiments_pb2_grpc

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]
STEPPED_S = 3.0
HOUR_S = 3600.0
SILENT_S, AWAY_S = 4.0, 4.0
MAX_GROWTH_MIB = 64.0
"""Of a gateway whose spans nobody takes: a kilobyte for each request that waits, and the interpreter's own."""
EXPORTED = r'headrace_telemetry_spans_total{result="exported"}'
FAILED = r'headrace_telemetry_spans_total{result="failed"}'


@contextlib.asynccontextmanager
async def filled(disk: Path) -> AsyncIterator[None]:
    """No byte is free inside, whatever is deleted meanwhile."""
    ballast = disk / "ballast"

    async def keep_full() -> None:
        with ballast.open("wb", buffering=0) as file:
            while True:
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(1 << 16))
                await asyncio.sleep(0.005)

    filling = asyncio.create_task(keep_full())
    try:
        yield
    finally:
        filling.cancel()
        await asyncio.wait({filling})
        ballast.unlink()


async def moved(rig: Rig) -> grpc.StatusCode:
    """What an operator's move is answered, which control must write down first."""
    asked = experiments_pb2.SetTrafficRequest(model=patient.NAME, primary_version="1", why="a fault")
    async with aio.insecure_channel(rig.control_address) as channel:
        try:
            await experiments_pb2_grpc.ExperimentServiceStub(channel).SetTraffic(asked, timeout=5)
        except aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


async def until_moved(rig: Rig, code: grpc.StatusCode) -> None:
    while await moved(rig) is not code:
        await asyncio.sleep(0.05)


async def until(figure: Callable[[], Any], least: float) -> None:
    while await figure() < least:
        await asyncio.sleep(0.1)


def test_a_full_disk_for_traces_and_ledger(rig: Rig) -> None:
    """Payments and discovery go on, a killed replica is replaced; moves are refused, spans dropped and counted."""
    if not rig.own_disk:
        pytest.skip("only root can mount a disk to fill")
    bound = BOUNDS["disk"]

    async def main() -> tuple[Load, float, float]:
        async with rig.loaded() as load:
            victim = next(iter(await rig.replicas()))
            async with filled(rig.disk):
                async with asyncio.timeout(30):
                    await until_moved(rig, grpc.StatusCode.UNAVAILABLE)
                    await until(lambda: rig.figure(0, FAILED), 100)
                os.kill(victim, 9)
                await rig.until_whole(BOUNDS["killed"].whole_s, without=victim)
                await load.answered()
            fault_s = time.monotonic()
            exported = await rig.figure(0, EXPORTED)
            async with asyncio.timeout(bound.whole_s):
                await until_moved(rig, grpc.StatusCode.OK)
                await until(lambda: rig.figure(0, EXPORTED), exported + 100)
            whole_at = await rig.until_whole(bound.whole_s)
        return load, fault_s, whole_at

    load, fault_s, whole_at = rig.run(main())

    report("disk full for traces and ledger", load, bound, fault_s, whole_at)
    assert load.told() == {}


async def wall_s(rig: Rig, which: int) -> float:
    """What a gateway takes for the time, Unix seconds: it says when it answered last."""
    async with stub_of(rig.targets[which]) as stub:
        answer = await stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name=patient.NAME), timeout=2)
    return float(answer.model_stats[0].last_inference) / 1000


def test_clocks_that_step(rig: Rig) -> None:
    """Of a gateway, control, a replica and Serve's controller, by an hour, each against the others, and back again."""
    bound = BOUNDS["clock"]

    async def main() -> tuple[Load, list[float], bool, float, float]:
        offs = []
        async with rig.loaded() as load:
            before = set(await rig.replicas())
            pids = [rig.gateways[0].pid, rig.control.pid, next(iter(before)), rig.serve_controller()]
            for sign in (1, -1, 0):
                for place, pid in enumerate(pids):
                    assert pid is not None
                    rig.step_clock(pid, sign * HOUR_S * (-1) ** place)
                await asyncio.sleep(STEPPED_S)
                offs.append(await wall_s(rig, 0) - time.time())
            fault_s = time.monotonic()
            whole_at = await rig.until_whole(bound.whole_s)
            await load.answered()
            same = before == set(await rig.replicas())
        return load, offs, same, fault_s, whole_at

    load, offs, same, fault_s, whole_at = rig.run(main())

    report("clocks step", load, bound, fault_s, whole_at)
    assert offs == pytest.approx([HOUR_S, -HOUR_S, 0], abs=60), "the clock of the gateway was not stepped"
    assert load.told() == {}
    assert same
    bent = [trace.rpc.ms for trace in reading.slowest(rig.disk / "traces", 20) if not 0 <= trace.rpc.ms < 60_000]
    assert bent == []


@contextlib.asynccontextmanager
async def silence(port: int) -> AsyncIterator[None]:
    """Somebody who takes connections there, and says nothing."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while await reader.read(1 << 16):
                pass
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()


@contextlib.asynccontextmanager
async def telling_gateway(rig: Rig, port: int, endpoint: str) -> AsyncIterator[Child]:
    """A third gateway, which sends its spans to a collector."""
    child = rig.gateway("gateway-2", port, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})
    await child.start()
    try:
        yield child
    finally:
        await child.stop()


def test_a_collector_that_goes_silent_and_away(rig: Rig, free_port: int) -> None:
    """Requests go on, records wait within their bound, and what waited arrives when it is back."""
    bound = BOUNDS["collector"]

    async def main() -> tuple[Load, float, float, float]:
        first = Sink()
        load = Load([f"127.0.0.1:{free_port}"])
        async with telling_gateway(rig, free_port, first.endpoint) as gateway:
            await until_there(load)
            async with load.asking():
                await load.answered(500)
                while not first.requests:
                    await asyncio.sleep(0.05)
                assert gateway.pid is not None
                before_mib = processes.resident_mib(gateway.pid)
                await asyncio.to_thread(first.close)
                async with silence(first.port):
                    await asyncio.sleep(SILENT_S)
                await asyncio.sleep(AWAY_S)
                growth_mib = processes.resident_mib(gateway.pid) - before_mib
                second = Sink(first.port)
                fault_s = time.monotonic()
                async with asyncio.timeout(bound.whole_s):
                    while not second.requests:
                        await asyncio.sleep(0.05)
                whole_at = time.monotonic()
                await load.answered()
        await asyncio.to_thread(second.close)
        return load, growth_mib, fault_s, whole_at

    load, growth_mib, fault_s, whole_at = rig.run(main())

    report("collector silent, then away", load, bound, fault_s, whole_at)
    assert load.told() == {}
    assert growth_mib < MAX_GROWTH_MIB


async def until_there(load: Load) -> None:
    """Until the gateway of this load answers rightly."""
    async with stub_of(*load.targets) as stub:
        while not (await stub_ready(stub)):
            await asyncio.sleep(0.05)


async def stub_ready(stub: Any) -> bool:
    try:
        answer = await stub.ModelReady(service_pb2.ModelReadyRequest(name=patient.NAME), timeout=1)
    except aio.AioRpcError:
        return False
    return bool(answer.ready)
