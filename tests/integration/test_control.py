"""Control and its two clients over real sockets: a replica's loop on one side, a gateway's follower on the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from headrace.config import ControlSettings, ModelSettings, Settings
from headrace.control.server import ControlServer
from headrace.errors import NotServing, StartupError
from headrace.gateway.snapshot import SnapshotFollower
from headrace.serving.registration import RegistrationLoop
from headrace.testing.control import FakeControl
from headrace.v1 import control_pb2, control_pb2_grpc

WARMING = control_pb2.REPLICA_STATE_WARMING
READY = control_pb2.REPLICA_STATE_READY
DRAINING = control_pb2.REPLICA_STATE_DRAINING
GONE = control_pb2.REPLICA_STATE_GONE


def bounded(main: Coroutine[None, None, None], limit_s: float = 20) -> None:
    asyncio.run(asyncio.wait_for(main, limit_s))


def report(figure: str) -> None:
    print(figure)  # noqa: T201  shown by `pytest -s`


async def eventually(condition: Callable[[], bool], limit_s: float = 8) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.01)  # noqa: ASYNC110  statistics are read, they signal nothing


def settings(port: int = 0, lease_s: float = 3, **models: ModelSettings) -> Settings:
    return Settings(control=ControlSettings(port=port, lease_s=lease_s), models=models)


def registration(
    replica_id: str = "a", digest: str = "sha256:1", state: control_pb2.ReplicaState = READY
) -> control_pb2.Registration:
    return control_pb2.Registration(
        replica_id=replica_id,
        endpoint="127.0.0.1:1",
        spec=control_pb2.ModelSpec(name="m", version="1", digest=digest),
        state=state,
    )


@asynccontextmanager
async def controlling(of: Settings) -> AsyncIterator[ControlServer]:
    control = ControlServer(of)
    await control.start()
    try:
        yield control
    finally:
        await control.stop()


@asynccontextmanager
async def registering(
    address: str, of: control_pb2.Registration, load: Callable[[], control_pb2.Load] = control_pb2.Load
) -> AsyncIterator[RegistrationLoop]:
    loop = RegistrationLoop(address, of, load)
    loop.start()
    try:
        yield loop
    finally:
        await loop.close()


class Followed:
    """A follower, and everything it was handed, with the moment."""

    def __init__(self, address: str) -> None:
        self.snapshots: list[tuple[float, control_pb2.Snapshot]] = []
        self.follower = SnapshotFollower(address, "gateway", self._take, silence_s=1.5)
        self._news = asyncio.Event()

    def _take(self, snapshot: control_pb2.Snapshot) -> None:
        self.snapshots.append((time.perf_counter(), snapshot))
        self._news.set()

    async def until(
        self, condition: Callable[[control_pb2.Snapshot], bool], limit_s: float = 8
    ) -> tuple[float, control_pb2.Snapshot]:
        """The latest snapshot, as soon as it satisfies `condition`, and when it arrived."""
        async with asyncio.timeout(limit_s):
            while not (self.snapshots and condition(self.snapshots[-1][1])):
                self._news.clear()
                await self._news.wait()
        return self.snapshots[-1]


@asynccontextmanager
async def following(address: str) -> AsyncIterator[Followed]:
    followed = Followed(address)
    task = asyncio.create_task(followed.follower.run())
    try:
        yield followed
    finally:
        task.cancel()
        await asyncio.wait({task})


def has(**states: control_pb2.ReplicaState) -> Callable[[control_pb2.Snapshot], bool]:
    return lambda snapshot: {entry.replica_id: entry.state for entry in snapshot.replicas} == states


def test_a_change_reaches_every_follower_at_once() -> None:
    async def main() -> None:
        took_ms = []
        async with (
            controlling(settings()) as control,
            following(control.address) as one,
            following(control.address) as other,
            registering(control.address, registration()) as replica,
        ):
            await one.until(has(a=READY))
            await other.until(has(a=READY))
            for state in (WARMING, READY, WARMING, READY):
                began = time.perf_counter()
                replica.update(state)
                arrivals = [await followed.until(has(a=state)) for followed in (one, other)]
                took_ms.append(1000 * (max(at for at, _ in arrivals) - began))

        report(f"change → both followers: {', '.join(f'{ms:.1f}' for ms in took_ms)} ms")
        assert max(took_ms) < 250

    bounded(main())


def test_a_new_replica_is_acknowledged_and_handed_over_at_once() -> None:
    async def main() -> None:
        async with controlling(settings()) as control, following(control.address) as followed:
            await followed.follower.wait_first(5)
            began = time.perf_counter()
            async with registering(control.address, registration()) as replica:
                await replica.wait_registered()
                acknowledged = time.perf_counter()
                arrived, _ = await followed.until(has(a=READY))

        began_ms, acknowledged_ms, arrived_ms = (1000 * at for at in (began, acknowledged, arrived))
        report(f"start → acknowledged {acknowledged_ms - began_ms:.1f} ms, → follower {arrived_ms - began_ms:.1f} ms")
        assert arrived - began < 0.5

    bounded(main())


def test_a_killed_replica_is_listed_until_its_lease_ends() -> None:
    async def main() -> None:
        async with controlling(settings(lease_s=0.6)) as control, following(control.address) as followed:
            async with registering(control.address, registration()) as replica:
                await replica.wait_registered()
                await followed.until(has(a=READY))
            killed = time.perf_counter()
            dropped, _ = await followed.until(has())

        assert 0.3 < dropped - killed < 2

    bounded(main())


def test_a_living_replica_outlasts_many_leases() -> None:
    async def main() -> None:
        async with (
            controlling(settings(lease_s=0.3)) as control,
            following(control.address) as followed,
            registering(control.address, registration()) as replica,
        ):
            await followed.until(has(a=READY))
            seen = len(followed.snapshots)
            await followed.until(lambda _: replica.statistics().acknowledgements >= 8)

        assert all(snapshot.replicas for _, snapshot in followed.snapshots[seen:])
        assert replica.statistics().streams == 1

    bounded(main())


def test_load_travels_with_the_heartbeat_under_the_same_version() -> None:
    async def main() -> None:
        queued = iter(range(1, 1000))
        async with (
            controlling(settings(lease_s=0.3)) as control,
            following(control.address) as followed,
            registering(control.address, registration(), lambda: control_pb2.Load(queued=next(queued))),
        ):
            _, first = await followed.until(has(a=READY))
            _, later = await followed.until(
                lambda s: bool(s.replicas) and s.replicas[0].load.queued > first.replicas[0].load.queued
            )

        assert later.version == first.version

    bounded(main())


def test_draining_is_seen_before_the_goodbye() -> None:
    async def main() -> None:
        async with controlling(settings()) as control, following(control.address) as followed:
            async with registering(control.address, registration()) as replica:
                await followed.until(has(a=READY))
                assert await replica.drain(timeout_s=2)
                await followed.until(has(a=DRAINING))
                assert await replica.goodbye(timeout_s=2)
                await followed.until(has(a=GONE))
            await followed.until(has())

        order = [snapshot.replicas[0].state for _, snapshot in followed.snapshots if snapshot.replicas]
        assert order == sorted(order)

    bounded(main())


def test_another_digest_is_fatal_to_the_newcomer_alone() -> None:
    async def main() -> None:
        async with controlling(settings()) as control, registering(control.address, registration()) as first:
            await first.wait_registered()
            async with registering(control.address, registration("b", digest="sha256:2")) as second:
                with pytest.raises(StartupError, match="sha256:2: a version is immutable"):
                    await second.wait_registered()

            assert await first.drain(timeout_s=2)

    bounded(main())


def test_a_control_that_comes_back_empty_is_filled_again_by_the_replicas() -> None:
    """What the follower hands over meanwhile comes from the new control alone: nothing while nobody is there."""

    async def main() -> None:
        old = ControlServer(settings())
        port = await old.start()
        async with (
            following(old.address) as followed,
            registering(old.address, registration("a")) as one,
            registering(old.address, registration("b")) as other,
        ):
            await followed.until(has(a=READY, b=READY))
            handed_over = len(followed.snapshots)
            await old.stop(0)
            await asyncio.sleep(1.5)
            assert len(followed.snapshots) == handed_over
            assert not followed.follower.statistics().connected
            for replica in (one, other):
                replica.assert_alive(0)
            async with controlling(settings(port)) as new:
                back = time.perf_counter()
                arrived, _ = await followed.until(lambda s: len(s.replicas) == 2 and s.epoch == new.epoch)
                statistics = followed.follower.statistics()

        report(f"control back → both replicas listed at the follower: {arrived - back:.2f} s")
        assert arrived - back < 3
        assert (statistics.epoch, statistics.reconnects) == (new.epoch, 1)
        assert {snapshot.epoch for _, snapshot in followed.snapshots[handed_over:]} == {new.epoch}

    bounded(main())


def test_clients_that_start_before_control_find_it() -> None:
    async def main() -> None:
        async with controlling(settings()) as control:
            port = control.port
        async with following(f"127.0.0.1:{port}") as followed, registering(f"127.0.0.1:{port}", registration()) as one:
            with pytest.raises(StartupError, match="no snapshot within"):
                await followed.follower.wait_first(0.3)
            assert not await one.drain(timeout_s=0.05)
            one.update(READY)
            async with controlling(settings(port)):
                await one.wait_registered()
                await followed.until(has(a=READY))

    bounded(main())


def test_a_stop_ends_every_stream_at_once() -> None:
    async def main() -> None:
        async with (
            controlling(settings()) as control,
            following(control.address) as followed,
            registering(control.address, registration()),
        ):
            await followed.until(has(a=READY))
            began = time.perf_counter()
            await control.stop(grace_s=10)

        assert time.perf_counter() - began < 2

    bounded(main())


def test_policies_come_from_the_settings_and_change_for_every_follower() -> None:
    async def main() -> None:
        async with (
            controlling(settings(m=ModelSettings(primary_version="1"))) as control,
            following(control.address) as followed,
        ):
            _, before = await followed.until(lambda s: s.policies[0].primary_version == "1")
            control.set_primary("m", "2")
            _, after = await followed.until(lambda s: s.policies[0].primary_version == "2")

        assert after.version == before.version + 1

    bounded(main())


def test_people_and_probes_are_answered() -> None:
    async def main() -> None:
        async with controlling(settings()) as control, registering(control.address, registration()) as replica:
            await replica.wait_registered()
            async with aio.insecure_channel(control.address) as channel:
                described = await control_pb2_grpc.ControlStub(channel).Describe(control_pb2.DescribeRequest())
                check = health_pb2.HealthCheckRequest(service="headrace.v1.Control")
                health = await health_pb2_grpc.HealthStub(channel).Check(check)
                asked = reflection_pb2.ServerReflectionRequest(list_services="")
                answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
                services = [service.name async for one in answers for service in one.list_services_response.service]

        assert has(a=READY)(described)
        assert described.epoch == control.epoch
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        assert {"headrace.v1.Control", "grpc.health.v1.Health"} <= set(services)

    bounded(main())


def test_a_taken_port_stops_the_start() -> None:
    async def main() -> None:
        async with controlling(settings()) as control:
            with pytest.raises(StartupError, match="is taken"):
                await ControlServer(settings(control.port)).start()

    bounded(main())


def test_a_server_serves_until_it_is_told_to_stop() -> None:
    async def main() -> None:
        stopped = asyncio.Event()
        control = ControlServer(settings())
        serving = asyncio.create_task(control.serve_until(stopped))
        await eventually(lambda: control.port > 0)
        async with registering(control.address, registration()) as replica:
            await replica.wait_registered()
            stopped.set()
            await serving

    bounded(main())


def test_without_control_nothing_waits_and_nothing_is_sent() -> None:
    async def main() -> None:
        async with registering("", registration()) as replica:
            await replica.wait_registered()
            replica.update(READY)
            assert await replica.drain()
            replica.assert_alive(0)
            assert await replica.goodbye()
            assert replica.statistics().streams == 0

    bounded(main())


@pytest.mark.slow
def test_a_stream_that_control_ignores_counts_only_while_control_answers_others() -> None:
    async def main() -> None:
        async with FakeControl(lease_s=0.5) as control, registering(control.address, registration()) as replica:
            await replica.wait_registered()
            control.deaf = True
            with pytest.raises(NotServing, match="control answers"):  # noqa: PT012  raised once enough time has passed
                while True:
                    replica.assert_alive(0.5)
                    await asyncio.sleep(0.05)
            control.deaf = False
            before = replica.statistics().acknowledgements
            await eventually(lambda: replica.statistics().acknowledgements > before)
            replica.assert_alive(0)

    bounded(main())


def test_a_later_refusal_does_not_end_a_replica_that_serves() -> None:
    async def main() -> None:
        async with FakeControl(lease_s=0.3) as control, registering(control.address, registration()) as replica:
            await replica.wait_registered()
            control.refuse_with = grpc.StatusCode.ALREADY_EXISTS
            streams = replica.statistics().streams
            await eventually(lambda: replica.statistics().streams >= streams + 2)
            control.refuse_with = None
            before = replica.statistics().acknowledgements
            await eventually(lambda: replica.statistics().acknowledgements > before)
            await replica.wait_registered()

    bounded(main())


def test_a_silent_stream_is_given_up_and_its_last_snapshot_kept() -> None:
    async def main() -> None:
        async with FakeControl() as control, following(control.address) as followed:
            control.publish(replicas=[registration()])
            await followed.until(has(a=READY))
            control.silent = True
            await eventually(lambda: followed.follower.statistics().reconnects == 1)
            silent_s = followed.follower.statistics().age_s
            control.silent = False
            control.publish(replicas=[registration(), registration("b")])
            await followed.until(has(a=READY, b=READY))

        assert 1.4 < silent_s < 2.5
        assert all(snapshot.replicas for _, snapshot in followed.snapshots[1:])

    bounded(main())


def test_a_snapshot_that_cannot_be_applied_does_not_end_the_following() -> None:
    async def main() -> None:
        good: list[int] = []

        def apply(snapshot: control_pb2.Snapshot) -> None:
            if snapshot.replicas:
                raise KeyError("FP99")
            good.append(snapshot.version)

        async with FakeControl() as control:
            follower = SnapshotFollower(control.address, "gateway", apply)
            task = asyncio.create_task(follower.run())
            await follower.wait_first(5)
            control.publish(replicas=[registration()])
            await eventually(lambda: follower.statistics().version == 2)
            control.publish()
            await eventually(lambda: good[-1] == 3)
            await control.wait_until(lambda fake: fake.followers == 1)
            task.cancel()
            await asyncio.wait({task})

        assert follower.statistics().reconnects == 0

    bounded(main())
