"""Gateways are replaced one after the other under load: clients that take turns among them lose nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.steady import ECHO, Steady, told
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.children import Child
from headrace.config import Settings
from headrace.control.server import ControlServer
from headrace.rpc.health import READINESS
from headrace.serving.registration import RegistrationLoop
from headrace.testing.gateway import settings
from headrace.testing.replica import FakeReplica
from headrace.v1 import control_pb2

pytestmark = pytest.mark.upgrades
Run = Callable[..., Any]
TURNS = (("grpc.lb_policy_name", "round_robin"),)


async def until_ready(port: int) -> None:
    """Until a probe would send callers there."""
    async with aio.insecure_channel(f"127.0.0.1:{port}", (("grpc.use_local_subchannel_pool", 1),)) as channel:
        stub, asked = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckRequest(service=READINESS)
        while True:
            with contextlib.suppress(aio.AioRpcError):
                answer = await stub.Check(asked, timeout=1, wait_for_ready=True)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            await asyncio.sleep(0.02)


async def until_asked(port: int) -> None:
    """Until callers have found it: whoever replaces the next gateway before leaves them none that they know."""
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub, asked = service_pb2_grpc.GRPCInferenceServiceStub(channel), service_pb2.ModelStatisticsRequest()
        while not any(one.inference_stats.success.count for one in (await stub.ModelStatistics(asked)).model_stats):
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def replica_and_control(folder: Path, **flags: Any) -> AsyncIterator[tuple[Settings, str]]:
    """A model's replica, registered with control; the settings of gateways that need it, and control's address."""
    chosen = settings(folder, gateway__required_models=("echo",), telemetry__log_level="ERROR", **flags)
    async with FakeReplica() as replica, ControlServer(chosen) as control:
        replica.delay_s = 0.1  # a drain takes a while, in which callers come back to where they have been told to go
        address = f"127.0.0.1:{control.port}"
        registration = RegistrationLoop(address, replica.registration, control_pb2.Load)
        registration.start()
        await registration.wait_registered()
        yield chosen, address
        await registration.close()


@contextlib.asynccontextmanager
async def gateway_process(folder: Path, chosen: Settings, control: str, port: int) -> AsyncIterator[Child]:
    """A gateway in a process of its own; SIGTERM at the end, unless it has stopped before."""
    config = folder / "headrace.yaml"
    config.write_text(chosen.model_dump_json(exclude={"engine", "model_dirs", "only"}))
    child = Child(f"gateway {port}", ["gateway", "--config", str(config), "--control", control, "--port", str(port)])
    await child.start()
    try:
        yield child
    finally:
        await child.stop()


def test_each_of_two_gateways_is_replaced_under_load_and_no_caller_notices(
    run: Run, tmp_path: Path, free_ports: Sequence[int], record_property: Callable[[str, object], None]
) -> None:
    """On fixed addresses: the other answers while one drains and ends, until callers have found its successor."""

    async def main() -> tuple[Steady, dict[str, float]]:
        times = {}
        callers = Steady("ipv4:" + ",".join(f"127.0.0.1:{port}" for port in free_ports), ECHO, TURNS)
        async with replica_and_control(tmp_path) as (chosen, control), contextlib.AsyncExitStack() as stack:
            gateways = {
                port: await stack.enter_async_context(gateway_process(tmp_path, chosen, control, port))
                for port in free_ports
            }
            await asyncio.gather(*map(until_ready, free_ports))
            async with callers.asking():
                await callers.answered()
                for number, (port, gateway) in enumerate(gateways.items(), 1):
                    begun = time.monotonic()
                    await gateway.stop()
                    ended = time.monotonic()
                    await callers.answered(20)
                    await stack.enter_async_context(gateway_process(tmp_path, chosen, control, port))
                    await until_ready(port)
                    ready = time.monotonic()
                    await until_asked(port)
                    times |= {
                        f"gateway {number} drained, s": ended - begun,
                        f"successor of gateway {number} ready, s": ready - ended,
                    }
                    times |= {f"callers back at gateway {number}, s": time.monotonic() - ready}
        return callers, times

    callers, times = run(main(), timeout_s=100)
    told(record_property, times, callers)

    assert set(callers.results) == {"right"}, callers.results
