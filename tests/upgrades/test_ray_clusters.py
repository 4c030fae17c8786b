"""What an upgrade of a RayService and of a model version does, on real Ray clusters under load: no caller notices.

A cluster is a process of its own with all that Ray needs, as two are while a RayService is upgraded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from tests import adder
from tests.steady import Steady, told
from tests.upgrades.ray_cluster import RayCluster

from headrace.config import Settings
from headrace.control.server import ControlServer
from headrace.gateway.server import Gateway
from headrace.testing.gateway import running_gateway, settings
from headrace.v1 import control_pb2, control_pb2_grpc, experiments_pb2, experiments_pb2_grpc

pytestmark = [
    pytest.mark.upgrades,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray's own
]
Run = Callable[..., Any]
Record = Callable[[str, object], None]


def chosen(folder: Path, **model: Any) -> Settings:
    return settings(folder, models={"adder": model}, replica__service="pay", telemetry__log_level="ERROR")


async def states(control: ControlServer) -> dict[str, str]:
    """Cluster and version of each replica → its state, as followers see it."""
    async with aio.insecure_channel(f"127.0.0.1:{control.port}") as channel:
        snapshot = await control_pb2_grpc.ControlStub(channel).Describe(control_pb2.DescribeRequest(), timeout=5)
    return {
        f"{one.cluster.split('-')[0]} {one.spec.version}": control_pb2.ReplicaState.Name(one.state)[14:]
        for one in snapshot.replicas
    }


async def until(control: ControlServer, wanted: dict[str, str]) -> None:
    while await states(control) != wanted:
        await asyncio.sleep(0.05)


def retries(gateway: Gateway) -> int:
    return sum(lane.dispatcher.retries for lane in gateway.models.lanes())


def test_the_next_ray_cluster_takes_over_under_load_and_the_first_is_taken_away(
    run: Run, tmp_path: Path, record_property: Record
) -> None:
    """Taken away by force, which nobody notices because nobody is there any more."""
    directory = adder.write(tmp_path / "models", 1)
    config = chosen(tmp_path)

    async def main() -> tuple[Steady, dict[str, float], int]:
        times = {}
        async with running_gateway(tmp_path, [], models={"adder": {}}) as (gateway, control):
            address = f"127.0.0.1:{control.port}"
            callers = Steady(f"127.0.0.1:{gateway.port}", adder.QUESTION)
            async with RayCluster("blue", config, address) as blue, RayCluster("green", config, address) as green:
                await blue.deploy(directory)
                await gateway.wait_ready(10)
                async with callers.asking():
                    await callers.answered()
                    begun = time.monotonic()
                    await green.deploy(directory)
                    times["the next cluster started, s"] = time.monotonic() - begun
                    await until(control, {"blue 1": "DRAINING", "green 1": "READY"})
                    times["and had taken over, s"] = time.monotonic() - begun
                    await callers.answered()
                    await blue.kill()
                    await callers.answered()
                    await until(control, {"green 1": "READY"})
                    await callers.answered()
                return callers, times, retries(gateway)

    callers, times, retried = run(main(), timeout_s=300)
    told(record_property, times, callers)

    assert set(callers.results) == {"right"}, callers.results
    assert retried == 0


def test_the_next_version_takes_over_under_load_and_the_one_before_goes(
    run: Run, tmp_path: Path, record_property: Record
) -> None:
    """As `serveConfigV2` brings and takes applications: the next one comes, control promotes it, the last one goes."""
    first, second = (adder.write(tmp_path / "models", version) for version in (1, 2))
    config = chosen(tmp_path)

    async def main() -> tuple[Steady, dict[str, float], set[str]]:
        times = {}
        async with running_gateway(tmp_path, [], models={"adder": {"primary_version": "1"}}) as (gateway, control):
            address = f"127.0.0.1:{control.port}"
            callers = Steady(f"127.0.0.1:{gateway.port}", adder.QUESTION)
            async with RayCluster("blue", config, address) as cluster:
                await cluster.deploy(first)
                await gateway.wait_ready(10)
                async with callers.asking():
                    await callers.answered()
                    begun = time.monotonic()
                    await cluster.deploy(second)
                    times["the next version started, s"] = time.monotonic() - begun
                    await until(control, {"blue 1": "READY", "blue 2": "READY"})
                    await callers.answered()
                    before = set(callers.versions)
                    begun = time.monotonic()
                    await promote(address, "2")
                    await callers.answered(1, version="2")
                    times["promoted, s"] = time.monotonic() - begun
                    await callers.answered()
                    begun = time.monotonic()
                    await cluster.delete("adder-1")
                    times["the one before gone, s"] = time.monotonic() - begun
                    await until(control, {"blue 2": "READY"})
                    await callers.answered()
                return callers, times, before

    callers, times, before = run(main(), timeout_s=300)
    told(record_property, times, callers)

    assert set(callers.results) == {"right"}, callers.results
    assert before == {"1"}
    assert callers.versions["2"] > 200


async def promote(control_address: str, version: str) -> None:
    async with aio.insecure_channel(control_address) as channel:
        stub = experiments_pb2_grpc.ExperimentServiceStub(channel)
        await stub.SetTraffic(experiments_pb2.SetTrafficRequest(model="adder", primary_version=version, why="upgrade"))
