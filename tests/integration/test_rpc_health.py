"""Health at a port: whoever watches it, and whatever they do not read, it is told to everybody else at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.rpc import Make, Raw, Run, by_path, data, serving

from headrace.rpc import frames
from headrace.rpc.messages import framed
from headrace.testing.gateway import running_gateway
from headrace.testing.replica import FakeReplica

Status = health_pb2.HealthCheckResponse
Ask = health_pb2.HealthCheckRequest
WATCH: Final = "/grpc.health.v1.Health/Watch"
DEAF: Final = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 0})
"""The first words of a client that takes no data."""


def watching(name: str = "") -> bytes:
    return by_path(WATCH) + data(1, framed(Ask(service=name).SerializeToString()), ends=True)


async def watched(raw: Raw, name: str = "") -> None:
    """Watch, as far as that the server has seen the call."""
    raw.send(watching(name) + frames.frame(frames.PING, 0, 0, bytes(8)))
    await raw.until(frames.PING)


def test_a_watcher_that_reads_nothing_keeps_nobody_from_hearing(run: Run) -> None:
    async def main() -> list[int]:
        async with serving() as served, Raw.to(served, DEAF) as raw, served.channel() as channel:
            await watched(raw)
            stub = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(Ask())
            seen = [(await watch.read()).status]
            for serves in (True, False, True):
                served.handlers.health.say("", serving=serves)
                seen += [(await watch.read()).status, (await stub.Check(Ask())).status]
            watch.cancel()
            return seen

    assert run(main()) == [
        Status.SERVICE_UNKNOWN,
        *[Status.SERVING] * 2,
        *[Status.NOT_SERVING] * 2,
        *[Status.SERVING] * 2,
    ]


def test_a_watcher_that_leaves_takes_no_other_along(run: Run, make_server: Make) -> None:
    async def main() -> int:
        async with serving(make_server) as served, served.channel() as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            stays, leaves = stub.Watch(Ask(service="a")), stub.Watch(Ask(service="a"))
            await asyncio.gather(stays.read(), leaves.read())
            leaves.cancel()
            await asyncio.wait([asyncio.ensure_future(leaves.code())])
            served.handlers.health.say("a", serving=True)
            status = (await stays.read()).status
            stays.cancel()
            return status

    assert run(main()) == Status.SERVING


def test_a_watcher_that_reads_nothing_does_not_keep_a_gateway_from_draining(run: Run, tmp_path: Path) -> None:
    async def main() -> int:
        async with FakeReplica() as replica, running_gateway(tmp_path, [replica]) as (gateway, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            raw = Raw(reader, writer)
            raw.send(DEAF)
            await watched(raw)
            async with aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
                watch = health_pb2_grpc.HealthStub(channel).Watch(Ask())
                while (status := (await watch.read()).status) != Status.SERVING:
                    pass
                stopping = asyncio.create_task(gateway.stop())
                status = (await watch.read()).status
                watch.cancel()
            await asyncio.wait_for(stopping, 10)
            writer.close()
            return status

    assert run(main()) == Status.NOT_SERVING
