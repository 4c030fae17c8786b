"""A whole cluster to break: control, two gateways and a Ray cluster of three nodes, and a model on two of them.

What restarts a process here is what does so in production: Serve and Ray for replicas, `headrace.children` (what
`headrace serve` runs, as a kubelet would) for gateways and control. A test breaks; it mends nothing but the cause.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

from grpc import aio
from tests import processes
from tests.faults import patient
from tests.faults.bounds import Bound
from tests.faults.load import RIGHT, Load, ask, stub_of
from tests.upgrades.ray_cluster import WORKER, RayCluster

from headrace.children import Child
from headrace.config import Settings
from headrace.telemetry import pages
from headrace.testing.gateway import settings
from headrace.v1 import control_pb2, control_pb2_grpc

REPLICAS: Final = 2
DISK_BYTES: Final = 48 << 20
READY: Final = re.compile(rf'^headrace_replicas{{model="{patient.NAME}",.*state="ready".*}} (\d+)', re.MULTILINE)


class Rig:
    """`start` it, `run` coroutines on its one event loop, `stop` it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.notes, self.disk, self._clocks = (
            folder,
            folder / "notes",
            folder / "disk",
            folder / "clocks",
        )
        for each in (self.disk, self._clocks):
            each.mkdir(parents=True)
        self.own_disk = os.geteuid() == 0 and _mounted(self.disk)
        self.model = patient.write(folder / "models", self.notes)
        control, *gateways = _free_ports(5)
        self.control_address = f"127.0.0.1:{control}"
        self.targets = [f"127.0.0.1:{port}" for port in gateways[:2]]
        self.metrics = [f"127.0.0.1:{port}" for port in gateways[2:]]
        self.settings = self._settings(control)
        self.control = self.child("control", ["control"], {})
        self.gateways = [
            self.gateway(f"gateway-{i}", gateways[i], {"HEADRACE_GATEWAY__METRICS_PORT": str(gateways[2 + i])})
            for i in range(2)
        ]
        self.ray = self._new_ray_cluster()
        self._runner = asyncio.Runner()

    def run(self, main: Coroutine[Any, Any, Any], limit_s: float = 120) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(limit_s):
                return await main

        return self._runner.run(bounded())

    def start(self) -> None:
        self.run(self._start(), 240)

    def stop(self) -> None:
        try:
            self.run(self._stop(), 120)
        finally:
            self._runner.close()
            if self.own_disk:
                subprocess.run(["umount", "--lazy", self.disk], check=True)

    async def _start(self) -> None:
        await asyncio.gather(*(child.start() for child in (self.control, *self.gateways)))
        await self.start_ray()
        await self.until_whole(60)

    async def _stop(self) -> None:
        await asyncio.gather(*(gateway.stop() for gateway in self.gateways))
        await self.ray.__aexit__()
        await self.control.stop()

    # Its parts --------------------------------------------------------------------------------------------------------

    async def start_ray(self) -> None:
        """A Ray cluster with the model on it, until Serve calls it RUNNING."""
        await self.ray.__aenter__()
        await self.ray.deploy(self.model)

    async def lose_ray(self) -> None:
        """Every process of the Ray cluster at once. What comes after is another one."""
        everything = processes.below(self.ray.pid)
        await self.ray.kill()
        for pid in everything:  # also those that have overwritten the names in their environment
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self.ray.__aexit__()
        self.ray = self._new_ray_cluster()

    def gateway(self, name: str, port: int, environment: Mapping[str, str]) -> Child:
        return self.child(name, ["gateway", "--control", self.control_address, "--port", str(port)], environment)

    def child(self, name: str, arguments: list[str], environment: Mapping[str, str]) -> Child:
        config = self.folder / "headrace.yaml"
        config.write_text(self.settings.model_dump_json(exclude={"engine", "model_dirs", "only"}))
        everything = {**os.environ, **self._stepped(), **environment}
        return Child(name, [*arguments, "--config", str(config)], environment=everything)

    async def replicas(self) -> dict[int, control_pb2.Registration]:
        """Process id → entry, of those that control calls READY."""
        async with aio.insecure_channel(self.control_address) as channel:
            snapshot = await control_pb2_grpc.ControlStub(channel).Describe(control_pb2.DescribeRequest(), timeout=2)
        ready = [entry for entry in snapshot.replicas if entry.state == control_pb2.REPLICA_STATE_READY]
        return {int(entry.replica_id.split("-")[-2]): entry for entry in ready}

    def serve_controller(self) -> int:
        """Its process id."""
        (found,) = [pid for pid in processes.below(self.ray.pid) if "ServeController" in processes.title(pid)]
        return found

    def step_clock(self, pid: int, seconds: float) -> None:
        """Of one process, against the machine's."""
        (self._clocks / str(pid)).write_text(str(int(seconds * 1e9)))

    def note(self, pid: int, what: str, value: str = "1") -> Path:
        """Tell the model in this process something, until the file is gone."""
        path = self.notes / f"{pid}.{what}"
        path.write_text(value)
        return path

    def forget(self) -> None:
        """What was noted and stepped: every process is well again."""
        for path in (*self.notes.iterdir(), *self._clocks.iterdir()):
            path.unlink()

    async def until_held(self) -> int:
        """Until some replica holds a batch: its process id."""
        while not (found := [*self.notes.glob("*.holds")]):
            await asyncio.sleep(0.002)
        found[0].unlink()
        return int(found[0].name.split(".")[0])

    # How it is --------------------------------------------------------------------------------------------------------

    async def until_whole(self, limit_s: float, without: int = 0) -> float:
        """Until everything that was there at first is, and serves; when that was. Raises: TimeoutError."""
        async with asyncio.timeout(limit_s):
            while not await self._is_whole(without):
                await asyncio.sleep(0.1)
        return time.monotonic()

    async def _is_whole(self, without: int) -> bool:
        try:
            pids = set(await self.replicas())
            if len(pids) != REPLICAS or without in pids or any(not processes.title(pid) for pid in pids):
                return False
            return all(await asyncio.gather(*map(self._sees_all, self.targets, self.metrics)))
        except (aio.AioRpcError, OSError, ValueError):
            return False

    async def _sees_all(self, target: str, metrics: str) -> bool:
        """This gateway has every replica, and answers."""
        page = await _page(metrics)
        ready = READY.search(page)
        if ready is None or int(ready[1]) != REPLICAS:
            return False
        async with stub_of(target) as stub:
            return (await ask(stub, 1, deadline_s=2)).how == RIGHT

    @contextlib.asynccontextmanager
    async def loaded(self, **how: Any) -> AsyncIterator[Load]:
        """Callers of both gateways, who have had their first answers."""
        load = Load(self.targets, **how)
        async with load.asking():
            await load.answered()
            yield load

    async def figure(self, which: int, name: str) -> float:
        """Of a gateway's metrics, summed over the series that this expression fits."""
        found = re.findall(rf"^{name} ([\d.e+-]+)$", await _page(self.metrics[which]), re.MULTILINE)
        return sum(map(float, found))

    def _settings(self, control_port: int) -> Settings:
        return settings(
            self.disk / "traces",
            control__port=control_port,
            control__ledger=self.disk / "ledger.db",
            models={patient.NAME: {"replicas": REPLICAS, "resources": {WORKER: 1}}},
            telemetry__log_level="ERROR",
            telemetry__max_file_bytes=1 << 20,
            telemetry__max_files=2,
        )

    def _new_ray_cluster(self) -> RayCluster:
        return RayCluster("faults", self.settings, self.control_address, 2, self._stepped())

    def _stepped(self) -> dict[str, str]:
        """What makes a process's clock one that can be stepped."""
        path = [str(Path(__file__).parent / "clock"), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(path), "FAULTS_CLOCKS": str(self._clocks)}


def report(name: str, load: Load, bound: Bound, fault_s: float, whole_at: float) -> None:
    """Print what was measured, and hold it to its bounds. Wrong answers are never allowed."""
    counts, whole_s = load.counts(), max(0.0, whole_at - fault_s)
    told = ", ".join(f"{count:,} {how}" for how, count in counts.most_common())
    print(  # noqa: T201  it is what the suite is run for
        f"\n  {name}: {told}; slowest {load.slowest_s():.2f} s; callers fine after "
        f"{load.sound_after_s(fault_s):.2f} s, all whole after {whole_s:.1f} s"
    )
    for sentence, count in load.told().most_common(5):
        print(f"    {count:,} {sentence}")  # noqa: T201  likewise
    assert "wrong" not in counts, counts
    assert load.under_way == 0
    assert load.slowest_s() <= bound.ended_s
    assert whole_s <= bound.whole_s


async def _page(address: str) -> str:
    return (await asyncio.to_thread(pages.fetch, address, "/metrics", 2)).decode()


def _mounted(folder: Path) -> bool:
    """A disk of its own, which a test can fill."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "headrace-faults", folder]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
