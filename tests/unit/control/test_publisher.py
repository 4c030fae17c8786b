"""Snapshots: at once, in bursts of one, and never a lease lost because control itself stood still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

from headrace.control.discovery import Directory
from headrace.control.policy import Policies
from headrace.control.publisher import COALESCE_S, Publisher
from headrace.core.clock import MonotonicClock
from headrace.v1 import control_pb2


def replica(replica_id: str) -> control_pb2.Registration:
    return control_pb2.Registration(
        replica_id=replica_id,
        endpoint="127.0.0.1:1",
        spec=control_pb2.ModelSpec(name="m", version="1", digest="sha256:1"),
        state=control_pb2.REPLICA_STATE_READY,
    )


@asynccontextmanager
async def publishing(lease_s: float) -> AsyncIterator[tuple[Directory, Publisher]]:
    directory = Directory(MonotonicClock(), lease_s)
    publisher = Publisher(MonotonicClock(), directory, Policies({}), "epoch")
    task = asyncio.create_task(publisher.run())
    try:
        yield directory, publisher
    finally:
        task.cancel()
        await asyncio.wait({task})


def bounded(main: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 10))


def test_the_first_snapshot_is_there_before_anybody_registers() -> None:
    async def main() -> None:
        async with publishing(lease_s=3) as (_, publisher):
            first = await anext(publisher.snapshots())

        assert (first.version, first.epoch, list(first.replicas)) == (1, "epoch", [])

    bounded(main())


def test_a_burst_of_changes_becomes_a_few_snapshots() -> None:
    async def main() -> None:
        seen = []
        async with publishing(lease_s=3) as (directory, publisher):
            for number in range(100):
                directory.register(replica(str(number)))
                publisher.changed()
                await asyncio.sleep(0)
            async for snapshot in publisher.snapshots():
                seen.append(len(snapshot.replicas))
                if seen[-1] == 100:
                    break

        assert len(seen) <= 4

    bounded(main())


def test_no_lease_is_lost_while_control_itself_stands_still() -> None:
    async def main() -> None:
        async with publishing(lease_s=0.7) as (directory, publisher):
            directory.register(replica("a"))
            publisher.changed()
            await asyncio.sleep(2 * COALESCE_S)
            time.sleep(1.5)  # noqa: ASYNC251  the whole process stops, as under SIGSTOP or a starved CPU
            await asyncio.sleep(2 * COALESCE_S)

            assert [entry.replica_id for entry in publisher.snapshot().replicas] == ["a"]

    bounded(main())
