"""Control's own figures, on a port of their own."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from tests import experiments
from tests.rpc import until

from headrace.control.server import ControlServer
from headrace.errors import StartupError
from headrace.gateway.snapshot import SnapshotFollower
from headrace.serving.registration import RegistrationLoop
from headrace.telemetry import pages
from headrace.testing.gateway import settings
from headrace.v1 import control_pb2, experiments_pb2_grpc
from headrace.v1 import experiments_pb2 as pb

Run = Callable[..., Any]


def entry(version: str, state: control_pb2.ReplicaState = control_pb2.REPLICA_STATE_READY) -> control_pb2.Registration:
    spec = experiments.spec(version)
    return control_pb2.Registration(replica_id=version, endpoint="127.0.0.1:1", spec=spec, state=state)


async def figures(port: int) -> dict[str, float]:
    page = await asyncio.to_thread(pages.fetch, f"127.0.0.1:{port}", "/metrics", 5)
    lines = [line for line in page.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_who_is_there_what_runs_and_what_was_counted_can_be_scraped(run: Run, tmp_path: Path, free_port: int) -> None:
    chosen = settings(tmp_path, control__metrics_port=free_port, control__ledger=str(tmp_path / "ledger.db"))

    async def main() -> tuple[dict[str, float], dict[str, float]]:
        async with ControlServer(chosen) as control:
            empty = await figures(free_port)
            address = f"127.0.0.1:{control.port}"
            following = asyncio.create_task(SnapshotFollower(address, "g", lambda _: None).run())
            loops = [RegistrationLoop(address, entry(version), control_pb2.Load) for version in "12"]
            loops.append(RegistrationLoop(address, entry("3", control_pb2.REPLICA_STATE_WARMING), control_pb2.Load))
            for loop in loops:
                loop.start()
                await loop.wait_registered()
            other = entry("1")
            other.replica_id, other.spec.digest = "other", "another"
            refused = RegistrationLoop(address, other, control_pb2.Load)
            refused.start()
            with pytest.raises(StartupError, match="immutable"):
                await refused.wait_registered()
            async with aio.insecure_channel(address) as channel:
                stub = experiments_pb2_grpc.ExperimentServiceStub(channel)
                asked = {"model": "m", "incumbent": "1", "challenger": "2", "start": True}
                await stub.CreateExperiment(pb.CreateExperimentRequest(id="e", **asked))
                for _ in range(2):  # the second time it is the same message
                    await stub.RecordPairs(experiments.message(1, 100, experiment="e", at_us=0))
            full = await figures(free_port)
            for loop in (*loops, refused):
                await loop.close()
            following.cancel()
            return empty, full

    empty, full = run(main())
    replicas = {name: value for name, value in full.items() if name.startswith("headrace_registered_replicas")}

    assert empty["headrace_followers"] == 0
    assert empty['headrace_experiments{stage="shadow"}'] == 0
    assert full["headrace_followers"] == 1
    assert {name for name, value in replicas.items() if value} == {
        'headrace_registered_replicas{model="m",state="ready",version="1"}',
        'headrace_registered_replicas{model="m",state="ready",version="2"}',
        'headrace_registered_replicas{model="m",state="warming",version="3"}',
    }
    assert replicas['headrace_registered_replicas{model="m",state="draining",version="1"}'] == 0
    assert full['headrace_experiments{stage="shadow"}'] == 1
    assert full["headrace_counted_pairs_total"] == 110  # a hundred, and ten of the noise floor
    assert full['headrace_refused_registrations_total{reason="Conflict"}'] >= 1
    assert full['headrace_refused_registrations_total{reason="InvalidInference"}'] == 0
    assert full['headrace_refused_callers_total{reason="Unauthenticated"}'] == 0
    durable = 'headrace_ledger_commit_duration_seconds_count{durable="true"}'
    assert full[durable] > empty.get(durable, 0)
    assert full['headrace_ledger_commit_duration_seconds_count{durable="false"}'] >= 2
    assert full["headrace_ledger_failures_total"] == full["headrace_ledger_failing"] == 0


def test_a_ledger_that_cannot_be_written_shows_until_it_can(run: Run, tmp_path: Path, free_port: int) -> None:
    path = tmp_path / "ledger.db"
    chosen = settings(tmp_path, control__metrics_port=free_port, control__ledger=str(path))

    async def main() -> tuple[dict[str, float], dict[str, float]]:
        async with ControlServer(chosen) as control, aio.insecure_channel(f"127.0.0.1:{control.port}") as channel:
            loops = [RegistrationLoop(f"127.0.0.1:{control.port}", entry(v), control_pb2.Load) for v in "12"]
            for loop in loops:
                loop.start()
                await loop.wait_registered()
            stub = experiments_pb2_grpc.ExperimentServiceStub(channel)
            request = pb.CreateExperimentRequest(id="e", model="m", incumbent="1", challenger="2")
            somebody = sqlite3.connect(path, isolation_level=None)
            somebody.execute("BEGIN IMMEDIATE")
            with pytest.raises(aio.AioRpcError):
                await stub.CreateExperiment(request)
            locked = await figures(free_port)
            somebody.execute("ROLLBACK")
            somebody.close()
            await stub.CreateExperiment(request)
            free = await figures(free_port)
            for loop in loops:
                await loop.close()
            return locked, free

    locked, free = run(main())

    assert locked["headrace_ledger_failing"] == 1
    assert locked["headrace_ledger_failures_total"] >= 1
    assert free["headrace_ledger_failing"] == 0
    assert free["headrace_ledger_failures_total"] >= locked["headrace_ledger_failures_total"]


def test_a_follower_that_leaves_is_followed_out(run: Run, tmp_path: Path, free_port: int) -> None:
    async def main() -> float:
        async with ControlServer(settings(tmp_path, control__metrics_port=free_port)) as control:
            follower = SnapshotFollower(f"127.0.0.1:{control.port}", "g", lambda _: None)
            following = asyncio.create_task(follower.run())
            await until(lambda: follower.connected)
            assert (await figures(free_port))["headrace_followers"] == 1
            following.cancel()
            async with asyncio.timeout(5):
                while (found := (await figures(free_port))["headrace_followers"]) == 1:
                    await asyncio.sleep(0.02)
            return found

    assert run(main()) == 0
