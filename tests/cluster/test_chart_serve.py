"""What the chart tells Ray Serve runs as it is, on a node that has the resources of its groups.

Only control's address is another one: the Service that the chart names is a name in a Kubernetes cluster.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.helm import chart, tools
from tests.helm.release import Release

from headrace.children import Child
from headrace.client import SyncScoringClient
from headrace.config import Settings
from headrace.serving import serve_config
from headrace.v1 import control_pb2, control_pb2_grpc

pytestmark = [pytest.mark.chart, pytest.mark.cluster, pytest.mark.timeout(500)]
NODE = Path(__file__).with_name("node.py")
PAYMENT = {"event_id": "p", "ts": "2026-03-01T12:00:00Z", "card_id": "c", "merchant_id": "m", "amount": 1.0}
PAYMENT |= {"currency": "EUR", "mcc": 5411, "country": "FR", "channel": "chip"}
CONTROL = "risk-headrace-control.payments.svc:8100"


@pytest.fixture
def release(root: Path) -> Release:
    """ci/cpu.yaml, with the models of this repository."""
    if not (tools.TOOLS / "helm-4" / "helm").exists():
        pytest.skip("helm-4 is not in build/tools: make chart-tools fetches it")
    values = yaml.safe_load((chart.CHART / "ci" / "cpu.yaml").read_text())
    found = chart.render({**values, "modelStore": {"mountPath": str(root / "models" / "repository")}})
    assert isinstance(found, Release), found.said
    return found


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def test_the_chart_s_applications_start_where_their_groups_are_and_score_a_payment(
    run: Callable[..., Any], release: Release, tmp_path: Path
) -> None:
    control_port, gateway_port, metrics_port = free_ports(3)
    said = release.ray_service["spec"]["serveConfigV2"]
    assert said.count(CONTROL) == len(release.applications)
    file = tmp_path / "serve.yaml"
    file.write_text(said.replace(CONTROL, f"127.0.0.1:{control_port}"))
    settings = Settings.model_validate(
        {
            "gateway": {"port": gateway_port, "metrics_port": metrics_port},
            "control": {"port": control_port, "ledger": ":memory:"},
            "telemetry": {"trace_dir": str(tmp_path / "traces"), "log_level": "ERROR"},
        }
    )
    wanted = Counter({"fraud-tx": 2, "acceptance": 1})
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        **serve_config.ENVIRONMENT,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
    }

    async def main() -> tuple[str, list[control_pb2.Registration]]:
        async with processes(settings, tmp_path), node(environment, {"headrace-cpu": 1000}) as head:
            await asyncio.to_thread(deploy, environment, head, file)
            ready = await until_ready(f"127.0.0.1:{control_port}", wanted)
            await until_serving(f"127.0.0.1:{gateway_port}", wanted)
            return await asyncio.to_thread(score, f"127.0.0.1:{gateway_port}"), ready

    model, ready = run(main(), timeout_s=450)

    assert model == "fraud-tx"
    first, last = release.settings["replica"]["ports"]
    assert all(first <= int(entry.endpoint.rpartition(":")[2]) <= last for entry in ready)


@asynccontextmanager
async def processes(settings: Settings, folder: Path) -> AsyncIterator[None]:
    """Control and a gateway."""
    config = folder / "headrace.yaml"
    config.write_text(settings.model_dump_json(exclude={"engine", "model_dirs", "only"}))
    address = f"127.0.0.1:{settings.control.port}"
    control = Child("control", ["control", "--config", str(config)])
    gateway = Child("gateway", ["gateway", "--config", str(config), "--control", address])
    try:
        await control.start()
        await gateway.start()
        yield
    finally:
        await gateway.stop()
        await control.stop()


@asynccontextmanager
async def node(environment: Mapping[str, str], resources: dict[str, float]) -> AsyncIterator[str]:
    """A Ray cluster; its address."""
    # Not below the test's folder: paths of sockets must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(NODE),
            folder,
            json.dumps(resources),
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address = (await process.stdout.readline()).decode().strip()
            assert address, "the node did not start"
            yield address
        finally:
            process.stdin.close()
            await process.wait()


def deploy(environment: Mapping[str, str], head: str, file: Path) -> None:
    """With Serve's own command. It does not wait for replicas."""
    serve = Path(sys.executable).with_name("serve")
    done = subprocess.run(
        [str(serve), "run", "--non-blocking", "--address", head, str(file)],
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "Submitted deploy config successfully" in done.stdout + done.stderr, done.stdout + done.stderr


async def until_ready(control: str, wanted: Counter[str]) -> list[control_pb2.Registration]:
    async with aio.insecure_channel(control) as channel:
        stub = control_pb2_grpc.ControlStub(channel)
        while True:
            snapshot = await stub.Describe(control_pb2.DescribeRequest(), timeout=5)
            ready = [entry for entry in snapshot.replicas if entry.state == control_pb2.REPLICA_STATE_READY]
            if Counter(entry.spec.name for entry in ready) == wanted:
                return ready
            await asyncio.sleep(0.2)


async def until_serving(gateway: str, models: Counter[str]) -> None:
    async with aio.insecure_channel(gateway) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for model in models:
            while not await _serves(health, model):
                await asyncio.sleep(0.1)


async def _serves(health: Any, model: str) -> bool:
    try:
        answer = await health.Check(health_pb2.HealthCheckRequest(service=model), timeout=5)
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def score(gateway: str) -> str:
    with SyncScoringClient(gateway, timeout_s=10) as client:
        return str(client.score(PAYMENT).model)
