"""What probes are told by gateway and control, on their ports and on a plain one that answers nothing else."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.certificates import Authority
from tests.rpc import until
from tritonclient.grpc import service_pb2_grpc

from headrace.client import request
from headrace.config import Settings
from headrace.control.ledger import Ledger
from headrace.control.server import ControlServer
from headrace.gateway.server import Gateway
from headrace.serving.registration import RegistrationLoop
from headrace.testing.control import FakeControl
from headrace.testing.gateway import running_gateway, settings
from headrace.testing.replica import FakeReplica
from headrace.v1 import control_pb2, control_pb2_grpc

Run = Callable[..., Any]
Status = health_pb2.HealthCheckResponse


def question() -> Any:
    return request("echo", {"events": np.zeros((1, 3, 2), np.float32), "key": np.array([[1]], np.int64)})


async def said(port: int, *names: str) -> list[str]:
    """What a probe that knows nobody hears, for each name; a code where it is no health."""
    async with aio.insecure_channel(f"127.0.0.1:{port}", (("grpc.use_local_subchannel_pool", 1),)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return [await heard(stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)) for name in names]


async def heard(asking: Awaitable[Any]) -> str:
    try:
        return str(Status.ServingStatus.Name((await asking).status))
    except aio.AioRpcError as error:
        return error.code().name


async def until_said(port: int, name: str, status: str = "SERVING", seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while await said(port, name) != [status]:
            await asyncio.sleep(0.02)


def test_a_gateway_is_live_at_once_and_ready_with_its_models_and_stays_ready_without_them(
    run: Run, tmp_path: Path, free_port: int
) -> None:
    """Through control that is away at first, and goes again; through the loss of every replica; until it drains."""
    names = ("liveness", "readiness", "", "echo")
    patience = {"echo": {"batching": {"default_timeout_ms": 1000}}}  # ours alone: a caller's own clock may be first
    chosen = settings(tmp_path, control__port=free_port, gateway__required_models=("echo",), models=patience)

    async def main() -> tuple[list[list[str]], grpc.StatusCode]:
        async with Gateway(chosen, f"127.0.0.1:{free_port}") as gateway, FakeReplica() as replica:
            await asyncio.sleep(0.3)
            found = [await said(gateway.port, *names)]
            async with ControlServer(chosen):
                await until(lambda: gateway.follower.connected)
                found.append(await said(gateway.port, *names))
                loop = RegistrationLoop(f"127.0.0.1:{free_port}", replica.registration, control_pb2.Load)
                loop.start()
                await until_said(gateway.port, "readiness")
                found.append(await said(gateway.port, *names))
                await loop.close()
            await replica.stop()
            async with aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
                with pytest.raises(aio.AioRpcError) as caught:
                    await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(question())
            await until_said(gateway.port, "echo", "NOT_SERVING")
            found.append(await said(gateway.port, *names))
            return found, caught.value.code()

    found, code = run(main())

    assert found == [
        ["SERVING", "NOT_SERVING", "NOT_SERVING", "NOT_FOUND"],
        ["SERVING", "NOT_SERVING", "NOT_SERVING", "NOT_FOUND"],
        ["SERVING", "SERVING", "SERVING", "SERVING"],
        ["SERVING", "SERVING", "NOT_SERVING", "NOT_SERVING"],
    ]
    assert code is grpc.StatusCode.UNAVAILABLE  # who is sent here is told so


def test_without_required_models_a_gateway_waits_until_a_fresh_control_can_know_all(run: Run, tmp_path: Path) -> None:
    lease_s = 2.0
    chosen = settings(tmp_path, control__lease_s=lease_s)

    async def main() -> tuple[list[str], float]:
        async with FakeReplica() as replica, FakeControl() as control:
            await control.say([replica.registration])
            begun = asyncio.get_running_loop().time()
            async with Gateway(chosen, control.address) as gateway:
                await gateway.wait_ready(10)
                at_first = await said(gateway.port, "", "readiness")
                await until_said(gateway.port, "readiness")
                return at_first, asyncio.get_running_loop().time() - begun

    at_first, waited_s = run(main())

    assert at_first[1] == "NOT_SERVING"
    assert waited_s >= lease_s


def test_a_draining_gateway_is_not_ready_and_alive_until_its_end(run: Run, tmp_path: Path, free_port: int) -> None:
    flags = {"gateway__health_port": free_port, "gateway__required_models": ("echo",)}

    async def main() -> tuple[list[str], set[str], str]:
        alive: set[str] = set()
        async with FakeReplica() as replica, running_gateway(tmp_path, [replica], **flags) as (gateway, _):
            await until_said(free_port, "readiness")
            async with aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
                replica.hanging.set()
                held = asyncio.ensure_future(
                    service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(question(), timeout=20)
                )
                await until(lambda: replica.batches)
                stopping = asyncio.create_task(gateway.stop())
                await until_said(free_port, "readiness", "NOT_SERVING")
                during = await said(free_port, "liveness", "readiness", "", "echo")
                replica.hanging.clear()
                await held
                while not stopping.done():
                    alive.update(await said(free_port, "liveness"))
                await stopping
            return during, alive, (await said(free_port, "liveness"))[0]

    during, alive, after = run(main())

    assert during == ["SERVING", "NOT_SERVING", "NOT_SERVING", "NOT_SERVING"]
    assert "SERVING" in alive
    assert after == "UNAVAILABLE"


def test_a_model_named_as_a_probe_is_does_not_speak_for_the_process(run: Run, tmp_path: Path) -> None:
    async def main() -> list[str]:
        specs = [control_pb2.ModelSpec(), control_pb2.ModelSpec()]
        async with FakeReplica() as real, FakeControl() as control:
            entries = [real.registration]
            for name, spec in zip(("liveness", "readiness"), specs, strict=True):
                spec.CopyFrom(real.spec)
                spec.name = name
                state = control_pb2.REPLICA_STATE_WARMING
                entries.append(
                    control_pb2.Registration(replica_id=name, endpoint="127.0.0.1:1", spec=spec, state=state)
                )
            await control.say(entries)
            chosen = settings(tmp_path, gateway__required_models=("echo",))
            async with Gateway(chosen, control.address) as gateway:
                await until_said(gateway.port, "readiness")
                assert len(list(gateway.models)) == 3
                return await said(gateway.port, "liveness", "readiness", "echo", "")

    assert run(main()) == ["SERVING", "SERVING", "SERVING", "NOT_SERVING"]


def encrypted(tmp_path: Path, ports: list[int]) -> Settings:
    authority = Authority(tmp_path)
    own = authority.issue("own")
    callers = [{"name": "own", "certificate": "cn:own", "may": ["gateway", "replica"]}]
    return settings(
        tmp_path,
        tls__certificate=own.certificate,
        tls__key=own.key,
        tls__authorities=authority.path,
        tls__require_client_certificate=True,
        access__mode="closed",
        access__callers=callers,
        gateway__health_port=ports[0],
        control__health_port=ports[1],
    )


@pytest.fixture
def free_ports() -> list[int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        return [int(probe.getsockname()[1]) for probe in (one, two)]


def test_where_tls_and_certificates_are_asked_for_a_plain_port_answers_health_and_nothing_else(
    run: Run, tmp_path: Path, free_ports: list[int]
) -> None:
    chosen = encrypted(tmp_path, free_ports)

    async def others(port: int) -> list[str]:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
            asked = reflect(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
            return [
                await heard(service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(question(), timeout=5)),
                await heard(control_pb2_grpc.ControlStub(channel).Describe(control_pb2.DescribeRequest(), timeout=5)),
                str(
                    await asked.code() is not grpc.StatusCode.OK
                ),  # a stream that is none may be INTERNAL to its client
                *await said(port, "n" * 10_000),
            ]

    async def main() -> tuple[list[Any], list[Any]]:
        async with ControlServer(chosen) as control, Gateway(chosen, f"127.0.0.1:{control.port}") as gateway:
            await until_said(free_ports[1], "readiness")
            probed = [await said(port, "liveness", "readiness") for port in free_ports]
            in_plain_text = [(await said(port, "liveness"))[0] for port in (gateway.port, control.port)]
            return [*probed, in_plain_text], [await others(port) for port in free_ports]

    probed, answered = run(main())

    assert probed == [["SERVING", "NOT_SERVING"], ["SERVING", "SERVING"], ["UNAVAILABLE", "UNAVAILABLE"]]
    assert answered == [["UNIMPLEMENTED", "UNIMPLEMENTED", "True", "RESOURCE_EXHAUSTED"]] * 2


def test_control_is_ready_once_its_ledger_takes_a_write_and_then_stays(run: Run, tmp_path: Path) -> None:
    """Discovery goes on without the ledger: one that fails later must not take control from its callers."""
    path = tmp_path / "ledger.db"
    Ledger(path).close()

    async def main() -> tuple[list[str], list[str]]:
        somebody = sqlite3.connect(path, isolation_level=None)
        somebody.execute("BEGIN IMMEDIATE")
        async with ControlServer(settings(tmp_path, control__ledger=str(path))) as control:
            await asyncio.sleep(1.5)
            locked = await said(control.port, "liveness", "readiness", "")
            somebody.execute("ROLLBACK")
            await until_said(control.port, "readiness")
            somebody.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(1.5)
            again = await said(control.port, "liveness", "readiness", "")
            somebody.close()
            return locked, again

    locked, again = run(main())

    assert locked == ["SERVING", "NOT_SERVING", "SERVING"]
    assert again == ["SERVING", "SERVING", "SERVING"]
