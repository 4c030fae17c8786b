"""A gateway leaves the replicas of a service's earlier cluster for those of the later one, and comes back at need."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from tests.rpc import until
from tests.steady import ECHO, Steady

from headrace.control.server import ControlServer
from headrace.gateway.server import Gateway
from headrace.serving.registration import RegistrationLoop
from headrace.testing.gateway import running_gateway
from headrace.testing.replica import FakeReplica
from headrace.v1 import control_pb2

Run = Callable[..., Any]


@contextlib.asynccontextmanager
async def registered(control: ControlServer, cluster: str, started_us: int) -> AsyncIterator[FakeReplica]:
    """The one replica of a cluster of the service `pay`. Its lease ends by itself once it is stopped inside."""
    async with FakeReplica(replica_id=cluster) as replica:
        registration = replica.registration
        registration.service, registration.cluster, registration.started_us = "pay", cluster, started_us
        loop = RegistrationLoop(f"127.0.0.1:{control.port}", registration, control_pb2.Load)
        loop.start()
        await loop.wait_registered()
        yield replica
        await loop.close()


@contextlib.asynccontextmanager
async def blue_then_green(folder: Path) -> AsyncIterator[tuple[Gateway, Steady, FakeReplica, FakeReplica]]:
    """A cluster that was asked, and the later one, which alone is asked now."""
    async with (
        running_gateway(folder, [], control__lease_s=30, models={"echo": {}}) as (gateway, control),
        registered(control, "blue", 1) as blue,
        contextlib.AsyncExitStack() as later,
    ):
        await gateway.wait_ready(10)
        callers = Steady(f"127.0.0.1:{gateway.port}", ECHO)
        async with callers.asking():
            await callers.answered()
            green = await later.enter_async_context(registered(control, "green", 2))
            await until(lambda: standing_by(gateway) == {"blue"})
            await callers.answered()
            yield gateway, callers, blue, green


def standing_by(gateway: Gateway) -> set[str]:
    (lane,) = gateway.models.lanes()
    return {link.replica_id for link in lane.dispatcher.links if link.usable and not link.choosable}


def retries(gateway: Gateway) -> int:
    return sum(lane.dispatcher.retries for lane in gateway.models.lanes())


def test_nobody_is_at_a_cluster_that_is_taken_away_after_the_hand_over(run: Run, tmp_path: Path) -> None:
    async def main() -> tuple[Steady, int, int, int]:
        async with blue_then_green(tmp_path) as (gateway, callers, blue, _):
            before = len(blue.batches)
            await callers.answered()
            after = len(blue.batches)
            await blue.stop()
            await callers.answered()
            return callers, before, after, retries(gateway)

    callers, before, after, retried = run(main())

    assert set(callers.results) == {"right"}
    assert before == after > 0
    assert retried == 0


def test_the_earlier_cluster_is_asked_again_at_once_when_the_later_one_dies(run: Run, tmp_path: Path) -> None:
    """Long before control hears of it: the lease of those that died runs on."""

    async def main() -> tuple[Steady, int, int]:
        async with blue_then_green(tmp_path) as (_, callers, blue, green):
            before = len(blue.batches)
            await green.stop()
            await callers.answered()
            return callers, before, len(blue.batches)

    callers, before, after = run(main())

    assert set(callers.results) == {"right"}
    assert after > before
    assert callers.slowest_s < 5
