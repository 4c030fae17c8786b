"""A steady stream of simulated payments to one gateway, and what is known of those that were answered.

It sends and counts; what the answers prove is told elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from headrace import demo_traffic
from headrace_models.history import Timeline

FIRST_DAY: Final = 45
"""Of the simulated world: histories are as long as they get."""
IN_FLIGHT: Final = 32
LEAST_RATE: Final = 20.0
SLOWER: Final = 0.6
FASTER: Final = 1.1
"""A look, of the rate before it."""
TIMEOUT_S: Final = 5.0


class Pace:
    """Turns so many a second, half as many at first. One that comes late is not made up for: no burst follows."""

    def __init__(self, rate: float) -> None:
        self._at_most = rate
        self.rate = rate / 2
        self._next = 0.0
        self._lost = 0

    async def turn(self) -> None:
        """Wait for the next turn; whoever comes first goes first."""
        now = time.monotonic()
        self._next = max(now, self._next + 1 / self.rate)
        await asyncio.sleep(self._next - now)

    def keep_up(self, behind: int, lost: int) -> None:
        """Slower where a second's payments are `behind`, or more were `lost` so far than at the last look; else faster.

        A machine gets what it can compare: a comparison with too many holes says nothing.
        """
        strained = behind > self.rate or lost > self._lost
        self._lost = lost
        self.rate = max(LEAST_RATE, self.rate * SLOWER) if strained else min(self._at_most, self.rate * FASTER)


@dataclass(slots=True)
class Stream:
    """Payments in order, and what became of them."""

    timeline: Timeline
    rows: npt.NDArray[np.int64]
    pace: Pace
    answered: list[int] = field(default_factory=list)
    """Rows, in the order of their answers."""
    by_version: Counter[str] = field(default_factory=Counter)
    """Who answered."""
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=2000))
    errors: int = 0

    @classmethod
    def simulate(cls, rate: float) -> Stream:
        """The late days of the demo's world: several times the payments that two experiments take."""
        events = demo_traffic.simulate()
        return cls(Timeline(events), np.flatnonzero(demo_traffic.day_of(events) >= FIRST_DAY), Pace(rate))

    @asynccontextmanager
    async def flowing(self, client: triton.InferenceServerClient) -> AsyncIterator[None]:
        """Payments flow while it is open; those on their way are awaited at its end."""
        payments, stopped = demo_traffic.payments(self.timeline, self.rows), asyncio.Event()
        callers = [
            asyncio.create_task(self._send(payments, client, stopped), name=f"caller-{number}")
            for number in range(IN_FLIGHT)
        ]
        try:
            yield
        finally:
            stopped.set()
            await asyncio.gather(*callers)

    def summary(self) -> str:
        """One line: how many were answered, by whom, how fast."""
        versions = ", ".join(f"{count:,} by version {version}" for version, count in sorted(self.by_version.items()))
        p50, p99 = np.percentile(self.latencies_ms, (50, 99)) if self.latencies_ms else (0.0, 0.0)
        times = f"p50 {p50:.1f} p99 {p99:.1f} ms"
        return f"{len(self.answered):,} payments answered ({versions}), {self.errors} errors, {times}"

    async def _send(
        self,
        payments: Iterator[demo_traffic.Payment],
        client: triton.InferenceServerClient,
        stopped: asyncio.Event,
    ) -> None:
        """One caller: the next payment when it is its turn, its answer, the next."""
        while not stopped.is_set():
            await self.pace.turn()
            payment = next(payments, None)
            if payment is None or stopped.is_set():
                return
            await self._ask(payment, client)

    async def _ask(self, payment: demo_traffic.Payment, client: triton.InferenceServerClient) -> None:
        said = demo_traffic.parameters(self.timeline.events, payment.row)
        asked = time.perf_counter()
        try:
            result = await client.infer(demo_traffic.MODEL, payment.inputs, parameters=said, client_timeout=TIMEOUT_S)
        except InferenceServerException:
            self.errors += 1
            return
        self.latencies_ms.append((time.perf_counter() - asked) * 1e3)
        self.by_version[result.get_response().model_version] += 1
        self.answered.append(payment.row)
