"""Callers who repeat what may be lost, while replicas die: whatever a key was answered once, it is answered again."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import aio
from tests.shadowing import question, right, until
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.testing.gateway import running_gateway
from headrace.testing.replica import FakeReplica
from headrace.v1 import control_pb2, replica_pb2

Run = Callable[..., Any]


def tell_apart(replica: FakeReplica, numbers: Iterator[int]) -> None:
    """No two computations have one answer: all of them are right to the whole number, none to the last digit."""

    def change(answer: replica_pb2.PackedAnswer) -> None:
        answer.columns[0] = (np.frombuffer(answer.columns[0]) + (1 + next(numbers) % 100_000) / 2**20).tobytes()

    replica.change = change
    replica.delay_s = 0.005


class Payers:
    """Each asks about a payment until it has an answer, some of them twice at a time, and then once more."""

    def __init__(self, stub: Any) -> None:
        self.results: Counter[str] = Counter()
        self.numbers = itertools.count()
        self.stopping = False
        self._stub = stub

    async def pay(self) -> None:
        while not self.stopping:
            number = next(self.numbers)
            answers: list[service_pb2.ModelInferResponse] = []
            while len(answers) < 3:
                tries = 1 + number % 2
                found = await asyncio.gather(*(self._try(number) for _ in range(tries)))
                answers += [answer for answer in found if answer is not None]
            values = {answer.raw_output_contents[0] for answer in answers}
            computed = sum("headrace_idempotent_replay" not in answer.parameters for answer in answers)
            value = float(np.frombuffer(min(values))[0])
            self.results["right" if int(value) == right(number % 1000) else "wrong"] += 1
            self.results["one answer" if len(values) == 1 else "several answers"] += 1
            self.results["computed more than once"] += computed > 1

    async def _try(self, number: int) -> service_pb2.ModelInferResponse | None:
        message = question(number % 1000, idempotency_key=f"payment-{number}")
        try:
            found: service_pb2.ModelInferResponse = await self._stub.ModelInfer(message, timeout=0.05)
        except aio.AioRpcError as error:
            self.results[f"lost: {error.code().name}"] += 1
            return None
        return found


@pytest.mark.slow
def test_no_key_has_two_answers_while_replicas_die(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Counter[str], int]:
        numbers = itertools.count()
        async with FakeReplica(replica_id="first") as first, FakeReplica(replica_id="second") as second:
            tell_apart(first, numbers)
            tell_apart(second, numbers)
            async with (
                running_gateway(tmp_path, [first, second]) as (gateway, _),
                aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
            ):
                payers = Payers(service_pb2_grpc.GRPCInferenceServiceStub(channel))
                paying = [asyncio.ensure_future(payers.pay()) for _ in range(16)]

                async def more(count: int) -> None:
                    goal = payers.results["right"] + count
                    await until(lambda: payers.results["right"] >= goal, 20)

                await more(100)
                await first.stop()
                await more(100)
                second.hanging.set()  # nobody is left: tries run into their deadlines
                lost = sum(count for name, count in payers.results.items() if name.startswith("lost"))
                await until(lambda: sum(n for k, n in payers.results.items() if k.startswith("lost")) > lost + 20)
                async with FakeReplica(replica_id="third") as third:
                    tell_apart(third, numbers)
                    gateway.models.apply(control_pb2.Snapshot(replicas=[third.registration, second.registration]))
                    second.hanging.clear()
                    await more(100)
                    payers.stopping = True
                    await asyncio.gather(*paying)
                return payers.results, sum(lane.dispatcher.evictions for lane in gateway.models.lanes())

    results, evictions = run(main())

    assert results["right"] >= 300
    assert results["one answer"] == results["right"]
    assert results["wrong"] == results["several answers"] == results["computed more than once"] == 0
    assert sum(count for name, count in results.items() if name.startswith("lost")) > 20
    assert evictions >= 1
