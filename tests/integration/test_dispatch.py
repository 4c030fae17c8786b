"""Replicas that die, hang, drain or come back, under a real gateway: no wrong answer, no hung caller."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2_grpc

from headrace.client import request
from headrace.control.server import ControlServer
from headrace.gateway.server import Gateway
from headrace.testing.control import FakeControl
from headrace.testing.gateway import running_gateway, settings
from headrace.testing.replica import FakeReplica
from headrace.v1 import control_pb2, control_pb2_grpc

Run = Callable[..., Any]


def question(key: int) -> Any:
    columns = {"events": np.full((1, 1 + key % 5, 2), 0.5, np.float32), "key": np.array([[key]], np.int64)}
    return request("echo", columns)


def right(key: int) -> float:
    return float(1 + key % 5 + key)


def value(answer: Any) -> float:
    return float(np.frombuffer(answer.raw_output_contents[0])[0])


class Callers:
    """Closed-loop callers that count what they get."""

    def __init__(self, port: int, count: int = 8, timeout_s: float = 5.0) -> None:
        self.results: Counter[str] = Counter()
        self.slowest_s = 0.0
        self._port, self._count, self._timeout_s = port, count, timeout_s
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._channel = aio.insecure_channel(f"127.0.0.1:{self._port}")
        self._tasks = [asyncio.create_task(self._ask(i)) for i in range(self._count)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)
        await self._channel.close()

    async def _ask(self, key: int) -> None:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        while not self._stopping:
            key += self._count
            begun = time.monotonic()
            try:
                answer = await stub.ModelInfer(question(key), timeout=self._timeout_s)
            except aio.AioRpcError as error:
                self.results[error.code().name] += 1
            else:
                self.results["right" if value(answer) == right(key) else "wrong"] += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - begun)

    async def until_more(self, answers: int) -> None:
        target = self.results["right"] + answers
        while self.results["right"] < target:
            await asyncio.sleep(0.005)


def test_a_killed_replica_costs_no_caller_an_error(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Counter[str], int]:
        async with FakeReplica() as first, FakeReplica() as second:
            async with running_gateway(tmp_path, [first, second]) as (gateway, _), Callers(gateway.port) as callers:
                await callers.until_more(200)
                await first.stop()
                await callers.until_more(200)
            return callers.results, sum(lane.dispatcher.evictions for lane in gateway.models.lanes())

    results, evictions = run(main())

    assert set(results) == {"right"}
    assert evictions == 1


def test_a_hung_replica_is_evicted_and_its_batches_are_answered_elsewhere(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Counter[str], float]:
        async with FakeReplica() as first, FakeReplica() as second:
            async with running_gateway(tmp_path, [first, second]) as (gateway, _), Callers(gateway.port) as callers:
                await callers.until_more(300)
                first.hanging.set()
                await callers.until_more(500)
                first.hanging.clear()
            return callers.results, callers.slowest_s

    results, slowest_s = run(main())

    assert set(results) == {"right"}
    assert slowest_s < 2.5


def test_a_hung_replica_whose_callers_could_not_wait_is_no_error_of_ours(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They were told at their deadlines: nobody is on board when the batch is given up."""

    async def main() -> Counter[str]:
        async with FakeReplica() as first, FakeReplica() as second:
            async with running_gateway(tmp_path, [first, second]) as (gateway, _):
                async with Callers(gateway.port) as callers:
                    await callers.until_more(300)  # what batches cost is learnt
                async with Callers(gateway.port, timeout_s=0.1) as hurried:
                    first.hanging.set()
                    (lane,) = gateway.models.lanes()
                    (link,) = [one for one in lane.dispatcher.links if one.replica_id == first.replica_id]
                    while link.usable:
                        await asyncio.sleep(0.01)
                    await hurried.until_more(100)
                    first.hanging.clear()
            return hurried.results

    results = run(main())

    assert results["right"] >= 100
    assert set(results) <= {"right", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert "error of ours" not in caplog.text


def test_an_evicted_replica_that_answers_again_is_used_again(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[int, Counter[str]]:
        async with FakeReplica() as first, FakeReplica() as second:
            async with running_gateway(tmp_path, [first, second]) as (gateway, _), Callers(gateway.port) as callers:
                await callers.until_more(300)
                first.hanging.set()
                await callers.until_more(300)
                first.hanging.clear()
                before = len(first.batches)
                while len(first.batches) < before + 5:
                    await asyncio.sleep(0.01)
            return len(first.batches) - before, callers.results

    served, results = run(main())

    assert served >= 5
    assert set(results) == {"right"}


def test_the_only_replica_killed_and_replaced_answers_those_who_could_wait(run: Run, tmp_path: Path) -> None:
    async def main() -> float:
        async with (
            FakeReplica(replica_id="only") as first,
            running_gateway(tmp_path, [first]) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            await stub.ModelInfer(question(1), timeout=5)
            await first.stop()
            waiting = asyncio.ensure_future(stub.ModelInfer(question(2), timeout=20))
            await asyncio.sleep(0.3)
            async with FakeReplica(replica_id="next") as second:
                gateway.models.apply(control_pb2.Snapshot(replicas=[second.registration]))
                return value(await waiting)

    assert run(main()) == right(2)


def test_a_draining_replica_gets_nothing_new(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[int, Counter[str]]:
        async with FakeReplica() as first, FakeReplica() as second:
            async with running_gateway(tmp_path, [first, second]) as (gateway, _), Callers(gateway.port) as callers:
                await callers.until_more(50)
                draining = first.registration
                draining.state = control_pb2.REPLICA_STATE_DRAINING
                gateway.models.apply(control_pb2.Snapshot(replicas=[draining, second.registration]))
                (link,) = [x for x in gateway.models.lanes()[0].dispatcher.links if x.replica_id == first.replica_id]
                while link.flights:
                    await asyncio.sleep(0.005)
                before = len(first.batches)
                await callers.until_more(100)
                return len(first.batches) - before, callers.results

    late, results = run(main())

    assert late == 0
    assert set(results) == {"right"}


def test_a_snapshot_without_a_replica_that_answers_changes_nothing(run: Run, tmp_path: Path) -> None:
    """A control that has just started lists nobody yet."""

    async def main() -> Counter[str]:
        async with FakeReplica() as replica, running_gateway(tmp_path, [replica]) as (gateway, _):
            async with Callers(gateway.port) as callers:
                await callers.until_more(20)
                gateway.models.apply(control_pb2.Snapshot())
                await callers.until_more(50)
            return callers.results

    assert set(run(main())) == {"right"}


def test_a_replica_that_has_moved_is_asked_where_it_is_and_its_old_channel_closes(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Counter[str], bool, int]:
        async with FakeReplica(replica_id="r") as old, FakeReplica(replica_id="r") as new, FakeControl() as control:
            await control.say([old.registration])
            async with Gateway(settings(tmp_path), control.address) as gateway, Callers(gateway.port) as callers:
                await callers.until_more(20)
                (lane,) = gateway.models.lanes()
                (link,) = lane.dispatcher.links
                await control.say([new.registration])
                while not new.batches:
                    await asyncio.sleep(0.01)
                await callers.until_more(20)
                return callers.results, link.closed, len(lane.dispatcher.links)

    results, closed, links = run(main())

    assert set(results) - {"right"} <= {"UNAVAILABLE"}  # asked before there was anybody
    assert closed
    assert links == 1


def test_what_can_not_be_taken_over_of_one_replica_stops_no_other_and_no_readiness(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From a control that lets anything in."""
    odd = {"1": {"endpoint": "nonsense"}, "2": {"version": "9" * 5000}, "3": {"version": "latest"}}

    async def main() -> tuple[list[str], Counter[str]]:
        async with FakeReplica() as replica, FakeControl() as control:
            registrations = []
            for name, wrong in odd.items():
                spec = control_pb2.ModelSpec(name="a" + name, version=wrong.get("version", "1"))
                endpoint = wrong.get("endpoint", "127.0.0.1:1")
                registrations.append(control_pb2.Registration(replica_id=name, endpoint=endpoint, spec=spec))
            await control.say([*registrations, replica.registration])
            async with Gateway(settings(tmp_path), control.address) as gateway, Callers(gateway.port) as callers:
                await callers.until_more(20)
                await control.say([*registrations, replica.registration])
                await callers.until_more(20)
                return [model.name for model in gateway.models], callers.results

    models, results = run(main())

    assert models == ["a1", "echo"]  # an endpoint that is none is a version without a replica
    assert results["right"] >= 40
    assert caplog.text.count("could not be taken over") == len(odd)


def test_readiness_is_followed_after_an_error_of_ours(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with FakeReplica() as replica, running_gateway(tmp_path, [replica]) as (gateway, _):
            async with aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
                watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="echo"))
                while (await watch.read()).status != health_pb2.HealthCheckResponse.SERVING:
                    pass
                monkeypatch.setattr(gateway.models, "all_ready", lambda: 1 / 0)
                while "readiness could not be followed" not in caplog.text:
                    await asyncio.sleep(0.01)
                monkeypatch.undo()
                gateway.admission.open = False
                while (await watch.read()).status != health_pb2.HealthCheckResponse.NOT_SERVING:
                    pass
                watch.cancel()

    run(main())

    assert caplog.text.count("readiness could not be followed") == 1


def test_control_away_and_back_is_noticed_by_nobody(run: Run, tmp_path: Path, free_port: int) -> None:
    chosen = settings(tmp_path, control__port=free_port)

    async def main() -> tuple[Counter[str], int]:
        async with (
            FakeReplica() as replica,
            running_gateway(tmp_path, [replica], control__port=free_port) as (gateway, control),
            Callers(gateway.port) as callers,
        ):
            await callers.until_more(50)
            await control.stop()
            await callers.until_more(300)
            async with ControlServer(chosen) as again, aio.insecure_channel(f"127.0.0.1:{again.port}") as channel:
                stub = control_pb2_grpc.ControlStub(channel)
                while (
                    not (await stub.Describe(control_pb2.DescribeRequest())).replicas or not gateway.follower.connected
                ):
                    await asyncio.sleep(0.02)
                await callers.until_more(50)
                listed = len((await stub.Describe(control_pb2.DescribeRequest())).replicas)
                return callers.results, listed

    results, listed = run(main())

    assert set(results) == {"right"}
    assert listed == 1


def test_a_replica_that_died_without_traffic_and_a_goodbye_is_found_out(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with FakeReplica() as replica, running_gateway(tmp_path, [replica]) as (gateway, control):
            (lane,) = gateway.models.lanes()
            await control.stop()
            gateway.models.apply(control_pb2.Snapshot())  # its last word: the lease is over
            await asyncio.sleep(1.5)
            assert lane.dispatcher.links, "it answers: control may have lost it only"
            await replica.stop()
            async with asyncio.timeout(8):
                while lane.dispatcher.links:
                    await asyncio.sleep(0.05)

    run(main())


def test_a_gateway_that_has_heard_nothing_yet_says_so_and_not_that_a_model_is_unknown(
    run: Run, tmp_path: Path, free_port: int
) -> None:
    async def main() -> aio.AioRpcError:
        async with (
            Gateway(settings(tmp_path), f"127.0.0.1:{free_port}") as gateway,
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            with pytest.raises(aio.AioRpcError) as caught:
                await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(question(1), timeout=5)
            return caught.value

    error = run(main())

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "50"


def test_a_lost_replica_that_leaves_the_snapshot_is_forgotten_quietly(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> list[str]:
        async with FakeReplica() as first, FakeReplica() as second:
            async with running_gateway(tmp_path, [first, second]) as (gateway, _), Callers(gateway.port) as callers:
                await callers.until_more(100)
                await first.stop()
                (lane,) = gateway.models.lanes()
                while not lane.dispatcher.evictions:
                    await callers.until_more(5)
                gateway.models.apply(control_pb2.Snapshot(replicas=[second.registration]))
                await asyncio.sleep(0.6)  # past the next probes
                return [link.replica_id for link in lane.dispatcher.links if link.replica_id == second.replica_id]

    kept = run(main())

    assert len(kept) == 1
    assert "exception was never retrieved" not in caplog.text


def test_a_refusing_replica_is_not_evicted(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Counter[str], int]:
        async with FakeReplica() as first, FakeReplica() as second:
            first.refuse_with = grpc.StatusCode.RESOURCE_EXHAUSTED
            async with running_gateway(tmp_path, [first, second]) as (gateway, _):
                async with Callers(gateway.port, count=2) as callers:
                    await callers.until_more(20)
                return callers.results, sum(lane.dispatcher.evictions for lane in gateway.models.lanes())

    results, evictions = run(main())

    assert results["wrong"] == 0
    assert results["right"] >= 20
    assert evictions == 0


async def _storm(gateway: Gateway, total: int, cancelled: int) -> Counter[str]:
    """`total` requests, `cancelled` of them given up at a random moment; what became of each."""
    chance = random.Random(3)
    givers_up = set(chance.sample(range(total), cancelled))
    results: Counter[str] = Counter()
    window = asyncio.Semaphore(256)

    async def one(key: int, stub: Any) -> None:
        async with window:
            call = stub.ModelInfer(question(key), timeout=30)
            if key in givers_up:
                await asyncio.sleep(chance.random() * 0.02)
                call.cancel()
            try:
                answer = await call
            except asyncio.CancelledError:
                results["cancelled"] += 1
            else:
                results["right" if value(answer) == right(key) else "wrong"] += 1

    async with aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel, asyncio.TaskGroup() as group:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for key in range(total):
            group.create_task(one(key, stub))
    return results


def test_a_thousand_cancellations_disturb_none_of_ten_thousand_requests(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Counter[str], int, int]:
        async with FakeReplica() as replica, running_gateway(tmp_path, [replica]) as (gateway, _):
            results = await _storm(gateway, 10_000, 1_000)
            while gateway.admission.held:
                await asyncio.sleep(0.01)
            return results, sum(lane.queue.rows for lane in gateway.models.lanes()), gateway.admission.held

    results, waiting, held = run(main(), timeout_s=120)

    assert results["wrong"] == 0
    assert results["right"] >= 9_000
    assert results["right"] + results["cancelled"] == 10_000
    assert waiting == held == 0


def test_a_second_try_waits_for_another_replica_rather_than_going_back_to_the_lost_one(
    run: Run, tmp_path: Path
) -> None:
    """The lost one answers its health check at once, and would be chosen again while the other is full."""

    async def main() -> tuple[list[float], int]:
        async with FakeReplica() as lost, FakeReplica() as other:
            models = {"echo": {"batching": {"max_rows": 1}}}
            async with (
                running_gateway(tmp_path, [lost, other], models=models) as (gateway, _),
                aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
            ):
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                other.hanging.set()
                lost.refuse_with = grpc.StatusCode.UNAVAILABLE
                asked = [asyncio.ensure_future(stub.ModelInfer(question(key), timeout=20)) for key in range(6)]
                while len(other.batches) < 2 or not lost.batches:
                    await asyncio.sleep(0.005)
                seen = [batch.batch_id for batch in lost.batches]
                await asyncio.sleep(0.2)
                other.hanging.clear()
                lost.refuse_with = None
                values = [value(answer) for answer in await asyncio.gather(*asked)]
                again = sum(seen.count(batch.batch_id) for batch in lost.batches[len(seen) :])
                return values, again

    values, again = run(main())

    assert values == [right(key) for key in range(6)]
    assert again == 0
