"""Replicas as plain processes: they come back when they are killed or stopped, and nothing outlives the deployer."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio

from headrace.config import ControlSettings, ModelSettings, ReplicaSettings, Settings, TelemetrySettings
from headrace.control.server import ControlServer
from headrace.serving import weights
from headrace.serving.deploy import LocalDeployer
from headrace.v1 import control_pb2, control_pb2_grpc, replica_pb2, replica_pb2_grpc

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[2] / "benchmarks" / "repository"
ROWS = 64
Run = Callable[..., Any]


class Rig:
    """A deployer of two replicas of w1-encoder, and what control says of them."""

    def __init__(self, deployer: LocalDeployer, directory: control_pb2_grpc.ControlStub) -> None:
        self.deployer = deployer
        self._directory = directory

    @property
    def pids(self) -> set[int]:
        return {child.pid for child in self.deployer.children if child.pid is not None}

    async def ready(self) -> dict[int, control_pb2.Registration]:
        """Process id → entry, of the replicas that are ready."""
        snapshot = await self._directory.Describe(control_pb2.DescribeRequest(), timeout=5)
        ready = [entry for entry in snapshot.replicas if entry.state == control_pb2.REPLICA_STATE_READY]
        return {int(entry.replica_id.split("-")[-2]): entry for entry in ready}

    async def until_ready(self, condition: Callable[[set[int]], bool]) -> dict[int, control_pb2.Registration]:
        while not condition(set(ready := await self.ready())):
            await asyncio.sleep(0.02)
        return ready


@asynccontextmanager
async def deployed(tmp_path: Path) -> AsyncIterator[Rig]:
    settings = Settings(
        control=ControlSettings(port=0, ledger=":memory:"),
        replica=ReplicaSettings(queue_batches=64, notice_s=0.1),
        telemetry=TelemetrySettings(trace_dir=tmp_path / "traces", log_level="WARNING"),
        models={"w1-encoder": ModelSettings(replicas=2)},
    )
    config = tmp_path / "headrace.yaml"
    config.write_text(settings.model_dump_json(exclude={"engine", "model_dirs"}))
    async with ControlServer(settings) as control:
        address = f"127.0.0.1:{control.port}"
        deployer = LocalDeployer(settings, address, config, {**os.environ, "OMP_NUM_THREADS": "1"})
        async with aio.insecure_channel(address) as channel:
            try:
                await deployer.deploy([weights.read(REPOSITORY / "w1-encoder" / "1")])
                yield Rig(deployer, control_pb2_grpc.ControlStub(channel))
            finally:
                await deployer.stop()


async def send(entry: control_pb2.Registration, batches: int, after_the_first: Callable[[], None]) -> list[str]:
    """Send batches at once to one replica; the name of the status of each."""

    async def one(stub: replica_pb2_grpc.ReplicaStub) -> str:
        batch = replica_pb2.PackedBatch(
            replica_id=entry.replica_id,
            model="w1-encoder",
            version="1",
            rows=ROWS,
            columns=[np.ones((ROWS, 32, 16), "<f4").tobytes()],
            remaining_s=np.full(ROWS, np.inf, "<f8").tobytes(),
        )
        try:
            await stub.Execute(batch, timeout=5)
        except aio.AioRpcError as error:
            return error.code().name
        return "OK"

    async with aio.insecure_channel(entry.endpoint) as channel:
        stub = replica_pb2_grpc.ReplicaStub(channel)
        calls = [asyncio.create_task(one(stub)) for _ in range(batches)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        after_the_first()
        return await asyncio.gather(*calls)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_replica_that_is_killed_with_batches_loses_them_at_once_and_comes_back(
    run: Run, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    async def main() -> None:
        begun = time.perf_counter()
        async with deployed(tmp_path) as rig:
            ready = await rig.until_ready(lambda pids: len(pids) == 2)
            record_property("deploy to both ready, s", round(time.perf_counter() - begun, 2))
            victim, bystander = ready
            codes = await send(ready[victim], 32, lambda: os.kill(victim, signal.SIGKILL))
            killed = time.perf_counter()
            assert set(codes) == {"OK", grpc.StatusCode.UNAVAILABLE.name}

            ready = await rig.until_ready(lambda pids: len(pids - {victim}) == 2)
            record_property("killed replica replaced, s", round(time.perf_counter() - killed, 2))
            (newcomer,) = set(ready) - {victim, bystander}
            assert set(await send(ready[newcomer], 2, lambda: None)) == {"OK"}
            pids = rig.pids

            await rig.deployer.stop()
            assert not [pid for pid in pids if is_running(pid)]
            assert set(await rig.ready()) <= {victim}  # its lease may not have ended yet; the others said goodbye

    run(main())


def test_a_replica_that_is_stopped_by_a_signal_is_replaced(
    run: Run, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    async def main() -> None:
        async with deployed(tmp_path) as rig:
            victim, bystander = await rig.until_ready(lambda pids: len(pids) == 2)
            os.kill(victim, signal.SIGSTOP)
            stopped = time.perf_counter()

            ready = await rig.until_ready(lambda pids: len(pids - {victim}) == 2)
            record_property("stopped replica replaced, s", round(time.perf_counter() - stopped, 2))
            assert bystander in ready
            assert not is_running(victim)

    run(main())


def cut(directory: Path) -> None:
    path = directory / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def respell(old: str, new: str) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        text = (directory / "spec.yaml").read_text()
        assert old in text
        (directory / "spec.yaml").write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lambda directory: (directory / "weights.safetensors").unlink(),
        cut,
        lambda directory: (directory / "golden.npz").write_bytes(b"PK"),
        respell("name: score\n  datatype: FP32", "name: score\n  datatype: FP64"),
        respell("config:", "vocabulary: sha256:0\nconfig:"),
        respell("weights: ", "weights: ../"),
    ],
    ids=["missing", "truncated", "golden", "lie", "vocabulary", "path"],
)
def test_a_damaged_model_ends_the_process_with_one_line_and_78(
    run: Run, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    directory = Path(shutil.copytree(REPOSITORY / "w1-encoder", tmp_path / "w1-encoder")) / "1"
    damage(directory)

    async def main() -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "headrace", "replica", "--model-dir", str(directory)),
            stderr=asyncio.subprocess.PIPE,
        )
        _, stderr = await process.communicate()
        return process.returncode, stderr.decode()

    code, stderr = run(main())

    assert code == 78
    assert stderr.startswith(f"headrace: {directory}")
    assert stderr.count("\n") == 1
