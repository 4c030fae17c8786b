"""Callers that check every answer, and what they need to know of a running cluster."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from grpc import aio
from tritonclient.grpc import service_pb2_grpc

from headrace.client import request
from headrace.cluster import Cluster
from headrace.v1 import control_pb2, control_pb2_grpc


def w1(root: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(root / "benchmarks" / "repository" / "w1-encoder" / "1" / "golden.npz") as golden:
        return golden["input.events"], golden["output.score"]


class Load:
    """Callers that check every answer, and when each came."""

    def __init__(self, address: str, root: Path, timeout_s: float = 5.0) -> None:
        self.results: Counter[str] = Counter()
        self.slowest_s = 0.0
        self._address, self._timeout_s = address, timeout_s
        self._inputs, self._expected = w1(root)
        self._stopping = False

    async def run(self, count: int = 8) -> None:
        async with aio.insecure_channel(self._address) as channel, asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self._ask(service_pb2_grpc.GRPCInferenceServiceStub(channel), number % 8))

    def stop(self) -> None:
        self._stopping = True

    async def _ask(self, stub: Any, row: int) -> None:
        message = request("w1-encoder", {"events": self._inputs[row : row + 1]})
        while not self._stopping:
            begun = time.monotonic()
            try:
                answer = await stub.ModelInfer(message, timeout=self._timeout_s)
            except aio.AioRpcError as error:
                self.results[f"{error.code().name}: {error.details()}"] += 1
            else:
                found = np.frombuffer(answer.raw_output_contents[0], "<f4")
                self.results["right" if np.allclose(found, self._expected[row], atol=1e-5) else "wrong"] += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - begun)


async def ready_replicas(cluster: Cluster, model: str) -> list[int]:
    async with aio.insecure_channel(cluster.control_address) as channel:
        snapshot = await control_pb2_grpc.ControlStub(channel).Describe(control_pb2.DescribeRequest(), timeout=2)
    ready = [r for r in snapshot.replicas if r.spec.name == model and r.state == control_pb2.REPLICA_STATE_READY]
    return [int(r.replica_id.split("-")[-2]) for r in ready]


async def until_replicas(cluster: Cluster, count: int, without: int = 0) -> float:
    begun = time.monotonic()
    while True:
        try:
            pids = await ready_replicas(cluster, "w1-encoder")
        except aio.AioRpcError:
            pids = []
        if len(pids) >= count and without not in pids:
            return time.monotonic() - begun
        await asyncio.sleep(0.05)
