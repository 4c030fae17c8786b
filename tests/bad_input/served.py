"""A whole cluster in processes of its own, and what shows from outside: memory, sockets, restarts, log lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any, Final

import numpy as np
from tests import toy
from tests.steady import Question

from headrace import config
from headrace.cluster import Cluster
from headrace.serving.deploy import LocalDeployer

AMOUNT: Final = {"name": "amount", "datatype": "FP32", "dims": [-1], "axis": "events", "finite": True}
BOUND: Final = 1e30
"""No total is more, so that no sum of finite amounts is infinity."""
QUESTION: Final = Question(
    "toy",
    lambda number: {"amount": np.full((1, 1 + number % 8), number % 997, np.float32)},
    lambda number, _: float((1 + number % 8) * (number % 997)),
    "<f4",
)


class Served:
    """What a test needs of it."""

    def __init__(self, cluster: Cluster, log: Path) -> None:
        self._cluster = cluster
        self._log = log
        self.address = cluster.address
        self.port = int(cluster.address.rpartition(":")[2])

    @property
    def _gateway(self) -> int:
        pid = self._cluster.gateways[0].pid
        assert pid is not None
        return pid

    def resident_mib(self) -> float:
        """Of the gateway."""
        status = Path(f"/proc/{self._gateway}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) / 1024

    def sockets(self) -> int:
        """That the gateway has open."""
        found = 0
        for entry in Path(f"/proc/{self._gateway}/fd").iterdir():
            with contextlib.suppress(OSError):
                found += str(entry.readlink()).startswith("socket:")
        return found

    def processes(self) -> list[tuple[str, int | None, int]]:
        """Name, process id and restarts of everyone: equal while nobody was lost."""
        deployer = self._cluster.deployer
        assert isinstance(deployer, LocalDeployer)
        children = [self._cluster.control, *self._cluster.gateways, *deployer.children]
        return [(child.name, child.pid, child.restarts) for child in children]

    def errors(self) -> list[str]:
        """What any of them has logged as an error, or about one of ours."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [line["message"] for line in lines if line["level"] == "ERROR" or "of ours" in line["message"]]


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """The toy, behind one gateway, on a thread whose loop keeps the processes."""
    toy.write(folder / "models", broken=f"total = total.clamp(-{BOUND}, {BOUND})", inputs=[AMOUNT])
    log, started = folder / "log", Queue[Any]()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(folder, log, started)))
    thread.start()
    cluster, loop, stop = started.get(timeout=90)
    try:
        yield Served(cluster, log)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=60)


async def _serve(folder: Path, log: Path, started: Queue[Any]) -> None:
    free = {"gateway__port": 0, "gateway__metrics_port": 0, "control__port": 0, "control__ledger": ":memory:"}
    own = {"engine": "local", "only": ["toy"], "model_dirs": [folder / "models"]}
    chosen = config.load(None, {}, telemetry__trace_dir=folder / "traces", **own, **free)
    stop = asyncio.Event()
    cluster = Cluster(chosen)
    with _stderr_to(log):  # the children take it along
        await cluster.__aenter__()
    try:
        started.put((cluster, asyncio.get_running_loop(), stop))
        await stop.wait()
    finally:
        await cluster.__aexit__()


@contextlib.contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    kept = os.dup(2)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
