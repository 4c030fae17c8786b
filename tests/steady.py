"""Callers that ask all the time and check every answer, whatever is replaced meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from grpc import aio
from tritonclient.grpc import service_pb2_grpc

from headrace.client import request


@dataclass(frozen=True)
class Question:
    """What the callers ask, each time about another number, and the answer to it that a version gives."""

    model: str
    columns: Callable[[int], dict[str, np.ndarray[Any, Any]]]
    answer: Callable[[int, str], float]
    datatype: str


ECHO = Question(
    "echo",
    lambda number: {"events": np.ones((1, 3, 2), np.float32), "key": np.array([[number]], np.int64)},
    lambda number, _: 6.0 + number,
    "<f8",
)
"""Of a FakeReplica."""


@dataclass
class Steady:
    """So many callers, each with a moment between two questions. A client as it is: no retries but its transport's."""

    target: str
    question: Question
    options: Sequence[tuple[str, Any]] = ()
    callers: int = 6
    pause_s: float = 0.005
    timeout_s: float = 10.0
    results: Counter[str] = field(default_factory=Counter)
    """`right`, `wrong`, or a status and its sentence."""
    versions: Counter[str] = field(default_factory=Counter)
    """Right answers, by the version that gave them."""
    slowest_s: float = 0.0

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """They ask inside, and every question has its answer after."""
        stopping = asyncio.Event()
        own = ("grpc.use_local_subchannel_pool", 1)
        async with aio.insecure_channel(self.target, [*self.options, own]) as channel, asyncio.TaskGroup() as group:
            stub, numbers = service_pb2_grpc.GRPCInferenceServiceStub(channel), itertools.count()
            for _ in range(self.callers):
                group.create_task(self._ask(stub, numbers, stopping))
            try:
                yield
            finally:
                stopping.set()

    async def answered(self, more: int = 100, version: str = "") -> None:
        """Until so many more right answers have come, of this version."""
        goal = self._right(version) + more
        while self._right(version) < goal:
            await asyncio.sleep(0.005)

    def _right(self, version: str) -> int:
        return self.versions[version] if version else self.results["right"]

    async def _ask(self, stub: Any, numbers: itertools.count[int], stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            number, begun = next(numbers) % 1_000_000, time.monotonic()
            try:
                message = request(self.question.model, self.question.columns(number))
                answer = await stub.ModelInfer(message, timeout=self.timeout_s)
            except aio.AioRpcError as error:
                self.results[f"{error.code().name}: {error.details()}"] += 1
            else:
                found = float(np.frombuffer(answer.raw_output_contents[0], self.question.datatype)[0])
                right = found == self.question.answer(number, answer.model_version)
                self.results["right" if right else "wrong"] += 1
                self.versions[answer.model_version] += right
            self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
            await asyncio.sleep(self.pause_s)


def told(record_property: Callable[[str, object], None], times: Mapping[str, float], callers: Steady) -> None:
    """What was measured, in the output and in reports."""
    for name, figure in {**times, "slowest answer, s": callers.slowest_s, "answers": callers.results.total()}.items():
        record_property(name, round(figure, 2))
        print(f"{name}: {figure:.2f}")  # noqa: T201  it is what the test is run for
