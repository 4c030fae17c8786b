"""A gateway whose answers are compared: two versions of the echo model, a control in the test's hands, and its sums."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from grpc import aio
from tritonclient.grpc import service_pb2_grpc

from headrace.client import request
from headrace.gateway.server import Gateway
from headrace.testing.control import FakeControl
from headrace.testing.gateway import settings
from headrace.testing.replica import ECHO_SPEC, FakeReplica
from headrace.v1 import control_pb2, experiments_pb2

EXPERIMENT = "echo-1-2"


def replica(version: str) -> FakeReplica:
    spec = control_pb2.ModelSpec()
    spec.CopyFrom(ECHO_SPEC)
    spec.version = version
    return FakeReplica(spec)


def shadow(challenger: str = "2", **fields: Any) -> control_pb2.Shadow:
    given = {"share": 1.0, "timeout_ms": 1000, "max_in_flight_rows": 256, "output": "sum"} | fields
    return control_pb2.Shadow(experiment_id=EXPERIMENT, incumbent="1", challenger=challenger, **given)


def policy(*shadows: control_pb2.Shadow, primary: str = "1", canary: float = -1.0) -> control_pb2.TrafficPolicy:
    found = control_pb2.TrafficPolicy(model="echo", primary_version=primary, shadows=shadows)
    if canary >= 0:
        found.canary.CopyFrom(control_pb2.Canary(version="2", share=canary, salt=EXPERIMENT))
    return found


@asynccontextmanager
async def running(
    trace_dir: Path, replicas: list[FakeReplica], first: control_pb2.TrafficPolicy, **flags: Any
) -> AsyncIterator[tuple[Gateway, FakeControl]]:
    """Control, and a gateway that has these replicas ready under this policy."""
    async with FakeControl() as control:
        await control.say([replica.registration for replica in replicas], first)
        async with Gateway(settings(trace_dir, **flags), control.address) as gateway:
            await until(lambda: len(gateway.models.lanes()) == len({r.spec.version for r in replicas}))
            await until(lambda: all(lane.ready for _, lane in gateway.models.comparisons))
            yield gateway, control


def question(key: int, **parameters: str | float) -> Any:
    columns = {"events": np.full((1, 1 + key % 5, 2), 0.5, np.float32), "key": np.array([[key]], np.int64)}
    message = request("echo", columns)
    for name, value in parameters.items():
        field = "string_param" if isinstance(value, str) else "double_param"
        setattr(message.parameters[f"headrace_{name}"], field, value)
    return message


def right(key: int) -> float:
    return float(1 + key % 5 + key)


async def ask(
    gateway: Gateway, keys: range, version: str = "", timeout_s: float = 5, **parameters: str | float
) -> Counter[str]:
    """Ask once for each key, all at once: how often each version gave the right answer, and what went wrong."""
    found: Counter[str] = Counter()

    async def one(stub: Any, key: int) -> None:
        message = question(key, **{"entity": f"card-{key}", **parameters})
        message.model_version = version
        try:
            answer = await stub.ModelInfer(message, timeout=timeout_s)
        except aio.AioRpcError as error:
            found[error.code().name] += 1
            return
        value = float(np.frombuffer(answer.raw_output_contents[0])[0])
        found[answer.model_version if value == right(key) else "wrong"] += 1

    async with aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        await asyncio.gather(*(one(stub, key) for key in keys))
    return found


class Sums:
    """What a control has been told of one comparison."""

    def __init__(self, control: FakeControl, *, noise: bool = False) -> None:
        # By number, as control counts them: what is not acknowledged in time is told again.
        told = {(message.experiment_id, message.gateway_id, message.sequence): message for message in control.told}
        self.columns = [message.noise if noise else message.pairs for message in told.values()]
        self.counts = [message.noise_counts if noise else message.counts for message in told.values()]

    @property
    def sampled(self) -> int:
        return sum(counts.sampled for counts in self.counts)

    @property
    def drops(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for counts in self.counts:
            found.update(counts.drops)
        return found

    @property
    def pairs(self) -> list[tuple[float, float]]:
        return [pair for columns in self.columns for pair in zip(columns.incumbent, columns.challenger, strict=True)]

    @property
    def errors(self) -> Counter[str]:
        """The challenger's."""
        name = experiments_pb2.PairError.Name
        return Counter(name(e)[11:] for columns in self.columns for e in columns.challenger_error if e)

    @property
    def asked(self) -> tuple[int, int, int, int]:
        """Requests and failures of callers: the incumbent's, the challenger's."""
        names = ("incumbent_requests", "incumbent_failures", "challenger_requests", "challenger_failures")
        found = [sum(getattr(counts, name) for counts in self.counts) for name in names]
        return found[0], found[1], found[2], found[3]

    @property
    def took(self) -> tuple[Counter[int], Counter[int]]:
        """What callers got, by `octaves`: the incumbent's, the challenger's."""
        found = Counter[int](), Counter[int]()
        for counts in self.counts:
            found[0].update(counts.incumbent_took)
            found[1].update(counts.challenger_took)
        return found

    @property
    def whole(self) -> bool:
        return self.sampled == len(self.pairs) + sum(self.drops.values())

    def equal_pairs(self) -> int:
        return sum(a == b for a, b in self.pairs if not math.isnan(b))


async def until(true: Callable[[], bool], timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():
            await asyncio.sleep(0.01)
