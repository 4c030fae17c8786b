"""Callers with deadlines, through plain grpcio: when each call was sent, when it ended and how, and whether rightly.

A closed loop (so many callers, one call each at a time) or an open one (so many calls a second, whatever comes back).
No retries: what a caller without any policy of its own sees is what is counted. `resends` leaves on what gRPC does by
itself in every client: a call that meets a GOAWAY on its way out, which no server has seen, goes elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from grpc import aio
from tests.faults import patient
from tritonclient.grpc import service_pb2_grpc

from headrace.client import request

DEADLINE_S: Final = 4.0
"""Of every call: more than the 2 s after which a hung replica is given up, twice over."""
SLACK_S: Final = 0.25
"""Past its deadline a call may end so late: our own event loop shares two cores with all that is tested."""
OPTIONS: Final = (
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
RIGHT: Final = "right"
WRONG: Final = "wrong"


class Asked(NamedTuple):
    """One call. Times are `time.monotonic`."""

    sent_s: float
    ended_s: float
    how: str
    """`right`, `wrong`, or the name of a status."""
    sentence: str = ""

    @property
    def took_s(self) -> float:
        return self.ended_s - self.sent_s


async def ask(stub: Any, number: int, ill: int = patient.WELL, seconds: float = 0.0, deadline_s: float = 0) -> Asked:
    """One call, its answer checked against its own input."""
    message = request(patient.NAME, patient.columns(number, ill, seconds))
    sent_s = time.monotonic()
    try:
        answer = await stub.ModelInfer(message, timeout=deadline_s or DEADLINE_S)
    except aio.AioRpcError as error:
        return Asked(sent_s, time.monotonic(), error.code().name, error.details() or "")
    ended_s = time.monotonic()
    found = np.frombuffer(answer.raw_output_contents[0], "<f4")
    return Asked(sent_s, ended_s, RIGHT if found.tolist() == [patient.right(number)] else WRONG)


@contextlib.asynccontextmanager
async def stub_of(*targets: str, resends: bool = False) -> AsyncIterator[Any]:
    """Of these gateways, in turns."""
    options = [*OPTIONS, ("grpc.enable_retries", int(resends))]
    async with aio.insecure_channel("ipv4:" + ",".join(targets), options) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@dataclass
class Load:
    """What is asked all the time, and what came of it."""

    targets: Sequence[str]
    callers: int = 6
    pause_s: float = 0.005
    rate: float = 0.0
    """Calls a second, instead of callers who wait for their answers."""
    resends: bool = False
    asked: list[Asked] = field(default_factory=list)
    right: int = 0
    under_way: int = 0

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """They ask inside, and every call has ended after."""
        stopping, numbers = asyncio.Event(), (number % 1_000_000 for number in itertools.count())
        async with stub_of(*self.targets, resends=self.resends) as stub, asyncio.TaskGroup() as group:
            if self.rate:
                group.create_task(self._ask_at_a_rate(group, stub, numbers, stopping))
            else:
                for _ in range(self.callers):
                    group.create_task(self._ask_on(stub, numbers, stopping))
            try:
                yield
            finally:
                stopping.set()

    async def answered(self, more: int = 100) -> None:
        """Until so many more right answers have come."""
        goal = self.right + more
        while self.right < goal:
            await asyncio.sleep(0.005)

    def others(self, since_s: float = 0.0) -> list[Asked]:
        """Whatever was sent since then and not answered rightly."""
        return [one for one in self.asked if one.sent_s >= since_s and one.how != RIGHT]

    def counts(self) -> Counter[str]:
        return Counter(one.how for one in self.asked)

    def told(self) -> Counter[str]:
        """What was said instead of right answers."""
        return Counter(f"{one.how}: {one.sentence}" for one in self.others())

    def slowest_s(self) -> float:
        return max(one.took_s for one in self.asked)

    def sound_after_s(self, fault_s: float) -> float:
        """Seconds from the fault until the last call was sent that was not answered rightly; 0 = there was none."""
        return max((one.sent_s - fault_s for one in self.others(fault_s)), default=0.0)

    async def _ask_on(self, stub: Any, numbers: Any, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await self._ask(stub, next(numbers))
            await asyncio.sleep(self.pause_s)

    async def _ask_at_a_rate(self, group: asyncio.TaskGroup, stub: Any, numbers: Any, stopping: asyncio.Event) -> None:
        due = time.monotonic()
        while not stopping.is_set():
            group.create_task(self._ask(stub, next(numbers)))
            due += 1 / self.rate
            await asyncio.sleep(due - time.monotonic())

    async def _ask(self, stub: Any, number: int) -> None:
        self.under_way += 1
        one = await ask(stub, number)
        self.under_way -= 1
        self.right += one.how == RIGHT
        self.asked.append(one)
