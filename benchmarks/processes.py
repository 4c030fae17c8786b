"""What the processes of a running cluster hold and spend, read from /proc."""

from __future__ import annotations

import os
from pathlib import Path

from grpc import aio

from headrace.cluster import Cluster
from headrace.v1 import control_pb2, control_pb2_grpc


async def all_of(cluster: Cluster) -> dict[str, int]:
    """Name → process id of every gateway, of control and of every replica, whatever engine runs it."""
    found = {"control": cluster.control.pid, **{gateway.name: gateway.pid for gateway in cluster.gateways}}
    async with aio.insecure_channel(cluster.control_address) as channel:
        snapshot = await control_pb2_grpc.ControlStub(channel).Describe(control_pb2.DescribeRequest(), timeout=5)
    # A replica's id is <model>-<version>-<process id>-<random>.
    found |= {f"replica-{r.spec.name}-{i}": int(r.replica_id.split("-")[-2]) for i, r in enumerate(snapshot.replicas)}
    return {name: pid for name, pid in found.items() if pid is not None}


def resident_mib(pid: int) -> float:
    """Raises: OSError when there is no such process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 2)


def cpu_s(pid: int) -> float:
    """User and system time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def gateways_cpu_s(cluster: Cluster) -> float:
    return sum(cpu_s(gateway.pid) for gateway in cluster.gateways if gateway.pid is not None)
