"""Replicas as Ray Serve deployments: READY when Serve says so, replaced when killed, and nothing left after `stop`.

One Ray for the file: it starts in seconds. The tests run in their order; the last one stops it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import aio

from headrace.children import Child
from headrace.config import ControlSettings, Settings, TelemetrySettings
from headrace.errors import StartupError
from headrace.serving import weights
from headrace.serving.deploy_ray import RayDeployer
from headrace.v1 import control_pb2, control_pb2_grpc, replica_pb2, replica_pb2_grpc

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray's own
]
REPOSITORY = Path(__file__).parents[2] / "benchmarks" / "repository"
W1 = REPOSITORY / "w1-encoder" / "1"
MODELS = {"w1-encoder": W1, "w2-ragged": REPOSITORY / "w2-ragged" / "1"}


class Rig:
    """A deployer on a Ray of its own; control is in another process: Ray forks, and gRPC must not run here before."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = Settings(
            control=ControlSettings(port=port, ledger=":memory:"),
            telemetry=TelemetrySettings(trace_dir=folder / "traces"),
        )
        config = folder / "headrace.yaml"
        config.write_text(settings.model_dump_json(exclude={"engine", "model_dirs"}))
        self._address = f"127.0.0.1:{port}"
        self._control = Child("control", ["control", "--config", str(config)])
        self._runner = asyncio.Runner()
        self.deployer = RayDeployer(settings, self._address)

    def run(self, main: Coroutine[Any, Any, Any], limit_s: float = 100) -> Any:
        return self._runner.run(_within(main, limit_s))

    def start(self) -> None:
        self.run(self._control.start())
        self.run(self.deployer.deploy([weights.read(directory) for directory in MODELS.values()]))

    def stop(self) -> None:
        self.run(self.deployer.stop())
        self.run(self._control.stop())
        self._runner.close()

    @property
    def control_pid(self) -> int | None:
        return self._control.pid

    async def ready(self) -> dict[int, control_pb2.Registration]:
        """Process id → entry, of the replicas that are ready."""
        async with aio.insecure_channel(self._address) as channel:
            snapshot = await control_pb2_grpc.ControlStub(channel).Describe(control_pb2.DescribeRequest(), timeout=5)
        ready = [entry for entry in snapshot.replicas if entry.state == control_pb2.REPLICA_STATE_READY]
        return {int(entry.replica_id.split("-")[-2]): entry for entry in ready}

    async def until_ready(self, condition: Callable[[set[int]], bool]) -> dict[int, control_pb2.Registration]:
        while not condition(set(ready := await self.ready())):
            await asyncio.sleep(0.02)
        return ready


async def _within(main: Coroutine[Any, Any, Any], limit_s: float) -> Any:
    async with asyncio.timeout(limit_s):
        return await main


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("ray"))
    try:
        rig.start()
        yield rig
    finally:
        rig.stop()


async def score(entry: control_pb2.Registration) -> np.ndarray:
    """The scores of the golden rows of w1-encoder, from its replica's own port."""
    with np.load(W1 / "golden.npz") as golden:
        events = golden["input.events"]
    batch = replica_pb2.PackedBatch(
        replica_id=entry.replica_id,
        model=entry.spec.name,
        version=entry.spec.version,
        rows=len(events),
        columns=[events.astype("<f4").tobytes()],
        remaining_s=np.full(len(events), np.inf, "<f8").tobytes(),
    )
    async with aio.insecure_channel(entry.endpoint) as channel:
        answer = await replica_pb2_grpc.ReplicaStub(channel).Execute(batch, timeout=5)
    return np.frombuffer(answer.columns[0], "<f4").reshape(-1, 1)


def expected() -> np.ndarray:
    with np.load(W1 / "golden.npz") as golden:
        return golden["output.score"]


def of_w1(ready: dict[int, control_pb2.Registration]) -> dict[int, control_pb2.Registration]:
    return {pid: entry for pid, entry in ready.items() if entry.spec.name == "w1-encoder"}


def processes() -> dict[int, tuple[int, str]]:
    """Process id → parent and name, of every process of this machine that is not a zombie."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = path.read_text().rpartition(") ")
        except OSError:  # it has just ended
            continue
        pid, _, name = head.partition(" (")
        state, parent = tail.split()[:2]
        if state != "Z":
            found[int(pid)] = int(parent), name
    return found


def descendants() -> dict[int, str]:
    all_of_them, below = processes(), {os.getpid()}
    while more := {pid for pid, (parent, _) in all_of_them.items() if parent in below and pid not in below}:
        below |= more
    return {pid: all_of_them[pid][1] for pid in below - {os.getpid()}}


def test_a_deployed_version_is_ready_at_control_and_answers_on_its_own_port(rig: Rig) -> None:
    ready = rig.run(rig.ready())

    assert {entry.spec.name for entry in ready.values()} == set(MODELS)
    (entry,) = of_w1(ready).values()
    np.testing.assert_allclose(rig.run(score(entry)), expected(), atol=1e-5)


def test_a_replica_that_is_killed_is_replaced(rig: Rig, record_property: Callable[[str, object], None]) -> None:
    (victim,) = of_w1(rig.run(rig.ready()))

    os.kill(victim, signal.SIGKILL)
    killed = time.perf_counter()
    ready = of_w1(rig.run(rig.until_ready(lambda pids: len(pids - {victim}) == len(MODELS))))
    record_property("killed replica replaced, s", round(time.perf_counter() - killed, 2))

    (newcomer,) = set(ready) - {victim}
    np.testing.assert_allclose(rig.run(score(ready[newcomer])), expected(), atol=1e-5)


def test_a_version_that_does_not_start_is_named_and_the_others_serve_on(rig: Rig, tmp_path: Path) -> None:
    before = set(rig.run(rig.ready()))
    directory = Path(shutil.copytree(W1, tmp_path / "w1-encoder" / "2"))
    spec = directory / "spec.yaml"
    spec.write_text(spec.read_text().replace("version: 1", "version: 2"))
    with np.load(directory / "golden.npz") as golden:
        np.savez(directory / "golden.npz", **{**golden, "output.score": golden["output.score"] + 1})

    with pytest.raises(StartupError, match="w1-encoder-2") as refused:
        rig.run(rig.deployer.deploy([weights.read(directory)]))

    assert "away from its golden value (tolerance" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert set(rig.run(rig.ready())) >= before & set(processes())


def test_stop_says_goodbye_and_leaves_no_process(rig: Rig) -> None:
    ours = descendants()
    assert "raylet" in ours.values()

    rig.run(rig.deployer.stop())

    assert not rig.run(rig.ready())
    left = {pid: name for pid, name in ours.items() if pid in processes()}
    assert set(left) == {rig.control_pid}
