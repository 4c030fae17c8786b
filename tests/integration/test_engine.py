"""The engine's promises to callers, through a real gateway: levels, ordering, refusals in time, waiting for company."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio
from tritonclient.grpc import service_pb2_grpc

from headrace.client import request
from headrace.gateway.server import Gateway
from headrace.testing.gateway import running_gateway
from headrace.testing.replica import FakeReplica

Run = Callable[..., Any]
Body = Callable[[Any, Gateway, FakeReplica], Awaitable[Any]]


def question(key: int, priority: int = 0) -> Any:
    message = request("echo", {"events": np.zeros((1, 1, 2), np.float32), "key": np.array([[key]], np.int64)})
    if priority:
        message.parameters["priority"].uint64_param = priority
    return message


def key_of(answer: Any) -> int:
    return int(np.frombuffer(answer.raw_output_contents[0])[0])


def keys_of(replica: FakeReplica) -> list[list[int]]:
    """The keys in each batch that the replica was sent."""
    return [np.frombuffer(batch.columns[1], "<i8").tolist() for batch in replica.batches]


def through_a_gateway(run: Run, folder: Path, body: Body, **batching: Any) -> Any:
    async def main() -> Any:
        async with (
            FakeReplica() as replica,
            running_gateway(folder, [replica], models={"echo": {"batching": batching}}) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            return await body(service_pb2_grpc.GRPCInferenceServiceStub(channel), gateway, replica)

    return run(main())


async def occupied(stub: Any, replica: FakeReplica) -> list[asyncio.Task[Any]]:
    """One batch runs and one is staged: whatever comes now has to wait."""
    replica.hanging.set()
    running = []
    for count in (1, 2):
        running.append(asyncio.ensure_future(stub.ModelInfer(question(1000 + count))))
        while len(replica.batches) < count:
            await asyncio.sleep(0.005)
    return running


async def until_waiting(gateway: Gateway, riders: int) -> None:
    while sum(len(lane.queue) for lane in gateway.models.lanes()) < riders:
        await asyncio.sleep(0.005)


def test_higher_levels_ride_first_and_each_level_in_the_order_of_coming(run: Run, tmp_path: Path) -> None:
    async def body(stub: Any, gateway: Gateway, replica: FakeReplica) -> list[int]:
        running = await occupied(stub, replica)
        waiting = []
        for place, priority in enumerate((3, 2, 1, 3, 1)):
            waiting.append(asyncio.ensure_future(stub.ModelInfer(question(place, priority))))
            await until_waiting(gateway, place + 1)
        replica.hanging.clear()
        await asyncio.gather(*running, *waiting)
        return [key for batch in keys_of(replica)[2:] for key in batch]

    rode = through_a_gateway(run, tmp_path, body, priority_levels=3, default_priority_level=2)

    assert rode == [2, 4, 1, 0, 3]


def test_answers_leave_in_the_order_of_their_requests_where_that_is_asked_for(run: Run, tmp_path: Path) -> None:
    """Two replicas, the first of which is slow: what the second answers waits for the first's."""

    async def main() -> list[int]:
        async with FakeReplica() as first, FakeReplica() as second:
            models = {"echo": {"batching": {"preserve_ordering": True, "max_rows": 1}}}
            async with (
                running_gateway(tmp_path, [first, second], models=models) as (gateway, _),
                aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
            ):
                stub, told = service_pb2_grpc.GRPCInferenceServiceStub(channel), []
                first.delay_s = 0.05

                async def ask(key: int) -> None:
                    told.append(key_of(await stub.ModelInfer(question(key))))

                asking = []
                for key in range(12):
                    asking.append(asyncio.create_task(ask(key)))
                    await asyncio.sleep(0.01)
                await asyncio.gather(*asking)
                assert first.batches
                assert second.batches
                return told

    assert run(main()) == list(range(12))


def test_who_cannot_be_answered_in_time_is_told_at_once_and_never_computed(run: Run, tmp_path: Path) -> None:
    async def body(stub: Any, gateway: Gateway, replica: FakeReplica) -> tuple[aio.AioRpcError, float, int]:
        replica.delay_s = 0.1
        for _ in range(20):  # it learns what batches cost, and what answers take
            await asyncio.gather(*(stub.ModelInfer(question(key)) for key in range(8)))
        crowd = [asyncio.ensure_future(stub.ModelInfer(question(key))) for key in range(300)]
        await until_waiting(gateway, 150)  # half a second of work
        begun, before = time.perf_counter(), len(replica.batches)
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.ModelInfer(question(7777), timeout=0.25)
        took_s = time.perf_counter() - begun
        await asyncio.gather(*crowd)
        rode = [key for batch in keys_of(replica)[before:] for key in batch]
        return caught.value, took_s, rode.count(7777)

    error, took_s, rode = through_a_gateway(run, tmp_path, body)

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "Request timeout expired: what waits would take longer than its deadline allows" in (error.details() or "")
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "50"
    assert took_s < 0.2
    assert rode == 0


def test_a_preferred_size_is_waited_for_and_sent_as_such(run: Run, tmp_path: Path) -> None:
    async def body(stub: Any, _: Gateway, replica: FakeReplica) -> tuple[list[int], float]:
        begun = time.perf_counter()
        await asyncio.gather(*(stub.ModelInfer(question(key)) for key in range(4)))
        return [len(batch) for batch in keys_of(replica)], time.perf_counter() - begun

    sizes, took_s = through_a_gateway(
        run, tmp_path, body, max_queue_delay_us=2_000_000, preferred_batch_size=[4], max_rows=8
    )

    assert sizes == [4]
    assert took_s < 1.0


def test_a_delayed_request_is_served_after_those_that_have_time(run: Run, tmp_path: Path) -> None:
    async def body(stub: Any, gateway: Gateway, replica: FakeReplica) -> list[int]:
        running = await occupied(stub, replica)
        late = question(1)
        late.parameters["timeout"].int64_param = 20_000
        waiting = [asyncio.ensure_future(stub.ModelInfer(late))]
        await until_waiting(gateway, 1)
        await asyncio.sleep(0.1)
        waiting += [asyncio.ensure_future(stub.ModelInfer(question(key))) for key in (2, 3)]
        await until_waiting(gateway, 3)
        replica.hanging.clear()
        answers = await asyncio.gather(*running, *waiting)
        assert [key_of(answer) for answer in answers[2:]] == [1, 2, 3]
        return [key for batch in keys_of(replica)[2:] for key in batch]

    rode = through_a_gateway(run, tmp_path, body, default_queue_policy={"timeout_action": "delay"})

    assert rode == [2, 3, 1]


def test_a_full_queue_does_not_hold_ordered_answers_back(run: Run, tmp_path: Path) -> None:
    async def body(stub: Any, gateway: Gateway, replica: FakeReplica) -> list[int]:
        running = await occupied(stub, replica)
        waiting = [asyncio.ensure_future(stub.ModelInfer(question(key))) for key in range(2)]
        await until_waiting(gateway, 2)
        with pytest.raises(aio.AioRpcError, match="Exceeds maximum queue size"):
            await stub.ModelInfer(question(99))
        replica.hanging.clear()
        await asyncio.gather(*running, *waiting)
        return [key_of(await stub.ModelInfer(question(key), timeout=5)) for key in (5, 6)]

    assert through_a_gateway(run, tmp_path, body, preserve_ordering=True, max_queue_rows=2) == [5, 6]
