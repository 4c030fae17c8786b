"""What a real gateway's batches say of the work that waits, the time it has, and the work that comes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from tests.shadowing import ask, policy, question, replica, running, shadow, until
from tritonclient.grpc import service_pb2_grpc

from headrace.testing.gateway import running_gateway
from headrace.testing.replica import FakeReplica
from headrace.v1 import replica_pb2

Run = Callable[..., Any]
RUN_S = 0.05
"""What a batch takes at the replica, whatever it holds."""
BATCH = 4
SMALL = {"models": {"echo": {"batching": {"max_rows": BATCH}}}}


async def stream(port: int, rows_s: float, seconds: float, timeout_s: float = 1.0) -> None:
    """One request every 1/`rows_s`, whatever becomes of those before."""

    async def one(stub: Any, key: int) -> None:
        try:
            await stub.ModelInfer(question(key), timeout=timeout_s)
        except aio.AioRpcError:
            return

    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.TaskGroup() as group:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        begun = asyncio.get_running_loop().time()
        for number in range(round(rows_s * seconds)):
            await asyncio.sleep(begun + number / rows_s - asyncio.get_running_loop().time())
            group.create_task(one(stub, number))


@pytest.mark.slow
def test_batches_say_how_much_work_comes_and_over_how_many_replicas_it_is_spread(run: Run, tmp_path: Path) -> None:
    """12 rows a second in batches of 4, 200 ms each: 0.6 replicas' work, whatever batches they really ride in.

    Long ones: what a batch takes besides, on a busy machine, is little of it.
    """
    rows_s, run_s = 12, 0.2

    async def main() -> list[replica_pb2.PackedBatch]:
        async with FakeReplica() as first, FakeReplica() as second:
            first.delay_s = second.delay_s = run_s
            async with running_gateway(tmp_path, [first, second], **SMALL) as (gateway, _):
                await until(lambda: all(lane.dispatcher.replicas == 2 for lane in gateway.models.lanes()))
                await stream(gateway.port, rows_s, 4)
            return [first.batches[-1], second.batches[-1]]

    for last in run(main()):
        assert last.work == pytest.approx(rows_s / BATCH * run_s, rel=0.3)
        assert last.replicas == 2


def test_batches_of_a_burst_say_what_waits_behind_them_and_how_much_time_it_has(run: Run, tmp_path: Path) -> None:
    async def main() -> list[replica_pb2.PackedBatch]:
        async with FakeReplica() as only:
            only.delay_s = RUN_S
            async with running_gateway(tmp_path, [only], **SMALL) as (gateway, _):
                for _ in range(12):  # it learns what a batch takes
                    await ask(gateway, range(1))
                only.batches.clear()
                await ask(gateway, range(10 * BATCH), timeout_s=2)
            return only.batches

    burst = run(main())
    waiting = [batch for batch in burst if batch.backlog_s]

    assert len(waiting) >= 7
    assert max(batch.backlog_s for batch in burst) > 6 * RUN_S  # the first leaves while the last ones are coming
    assert waiting[-1].backlog_s < waiting[len(waiting) // 2].backlog_s < waiting[2].backlog_s
    assert waiting[-1].slack_s < waiting[len(waiting) // 2].slack_s < waiting[2].slack_s
    assert all(0 < batch.slack_s < 2 - RUN_S for batch in waiting)
    assert burst[-1].backlog_s == 0
    assert burst[-1].slack_s == math.inf


def test_a_challengers_copies_ask_for_replicas_of_its_own_and_never_urgently(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[list[replica_pb2.PackedBatch], list[replica_pb2.PackedBatch]]:
        async with replica("1") as one, replica("2") as two:
            async with running(tmp_path, [one, two], policy(shadow())) as (gateway, _):
                for _ in range(10):
                    await ask(gateway, range(20))
                await until(lambda: sum(batch.rows for batch in two.batches) > 50)
            return one.batches, two.batches

    paid, copied = run(main())

    assert all(batch.shadow for batch in copied)
    assert not any(batch.shadow for batch in paid)
    assert copied[-1].work > 0
    assert {(batch.backlog_s, batch.slack_s) for batch in copied} == {(0.0, math.inf)}


def test_copies_at_replicas_that_payments_need_ask_for_nothing(run: Run, tmp_path: Path) -> None:
    """The incumbent's own copies, for the noise floor: its replicas follow what its callers wait for."""

    async def main() -> list[replica_pb2.PackedBatch]:
        async with replica("1") as one:
            async with running(tmp_path, [one], policy(shadow("1"))) as (gateway, _):
                for _ in range(10):
                    await ask(gateway, range(20))
                await until(lambda: any(batch.shadow for batch in one.batches))
            return one.batches

    batches = run(main())
    copies = [batch for batch in batches if batch.shadow]

    assert {(batch.backlog_s, batch.slack_s, batch.work) for batch in copies} == {(0.0, math.inf, 0.0)}
    assert all(batch.replicas == 1 for batch in batches)
    assert [batch for batch in batches if not batch.shadow][-1].work > 0
