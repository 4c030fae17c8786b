"""What the machine says of itself and of processes: the hardware, free ports, children, processor time, memory."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from grpc import aio

from headrace.cluster import Cluster
from headrace.v1 import control_pb2, control_pb2_grpc

TICKS_S = os.sysconf("SC_CLK_TCK")
PACE_BLOCK = 1 << 20


def hardware() -> str:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return f"{os.cpu_count()} cores, {model}, Python {platform.python_version()}, torch {torch.__version__}"


def pace(seconds: float) -> float:
    """How fast this machine is just now: MiB that all of its cores hash at once, a second. Of an idle cluster.

    Others share the cores, and none of the kernel's figures says how much of one is left. Takes so many seconds.
    """
    block, cores = bytes(PACE_BLOCK), os.cpu_count() or 1

    def hashed(until: float) -> int:
        blocks = 0
        while time.monotonic() < until:
            hashlib.sha256(block)  # of so much it lets the other threads run
            blocks += 1
        return blocks

    with ThreadPoolExecutor(cores) as pool:
        blocks = sum(pool.map(hashed, [time.monotonic() + seconds] * cores))
    return blocks * PACE_BLOCK / 2**20 / seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def processes(cluster: Cluster) -> dict[str, int]:
    """Name → process id of every gateway, of control and of every replica, whatever engine runs it."""
    found = {"control": cluster.control.pid, **{gateway.name: gateway.pid for gateway in cluster.gateways}}
    async with aio.insecure_channel(cluster.control_address) as channel:
        snapshot = await control_pb2_grpc.ControlStub(channel).Describe(control_pb2.DescribeRequest(), timeout=5)
    # A replica's id is <model>-<version>-<process id>-<random>.
    found |= {f"replica-{r.spec.name}-{i}": int(r.replica_id.split("-")[-2]) for i, r in enumerate(snapshot.replicas)}
    return {name: pid for name, pid in found.items() if pid is not None}


def stat_fields(process: int | str) -> list[str]:
    """The fields of /proc/…/stat from the state on. Raises: OSError when there is no such process."""
    return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()


def cpu_seconds(process: int | str) -> float:
    """User and system time so far of a process (its id), or of one thread of it (`PID/task/TID`)."""
    fields = stat_fields(process)
    return (int(fields[11]) + int(fields[12])) / TICKS_S


def waited_seconds(pid: int) -> float:
    """Time so far that its living threads were ready to run and had no core. Raises: OSError when there is no process.

    Source: https://docs.kernel.org/scheduler/sched-stats.html, /proc/<pid>/schedstat.
    """
    return sum(int(each.read_text().split()[1]) for each in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def gateways_cpu_seconds(cluster: Cluster) -> float:
    return sum(cpu_seconds(gateway.pid) for gateway in cluster.gateways if gateway.pid is not None)


def resident_mib(pid: int) -> float:
    """Raises: OSError when there is no such process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 2)


def family(root: int) -> list[int]:
    """`root`, all that descend from it, and whoever is left of the session that it led."""
    children, waiting = defaultdict(list), [root]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields, pid = stat_fields(int(entry.name)), int(entry.name)
            except OSError:  # gone since it was listed
                continue
            children[int(fields[1])].append(pid)
            if int(fields[3]) == root:
                waiting.append(pid)
    found: dict[int, None] = {}
    while waiting:
        if (pid := waiting.pop(0)) not in found:
            found[pid] = None
            waiting += children[pid]
    return list(found)


def spent_by(pids: list[int]) -> dict[int, float]:
    """Processor seconds so far of each that still lives."""
    spent = {}
    for pid in pids:
        try:
            spent[pid] = cpu_seconds(pid)
        except OSError:
            continue
    return spent
