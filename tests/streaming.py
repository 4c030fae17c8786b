"""What tests of the Open Inference Protocol share: a gateway over a replica that does as it is told, and streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pytest
from grpc import aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.client import request
from headrace.gateway.server import Gateway
from headrace.testing.gateway import running_gateway
from headrace.testing.replica import FakeReplica

Run = Callable[..., Any]


class Opened(NamedTuple):
    """A gateway, whom it asks, and a stub to ask it."""

    stub: Any
    gateway: Gateway
    replica: FakeReplica


@asynccontextmanager
async def opened(folder: Path, make: Callable[[], FakeReplica] = FakeReplica, **flags: Any) -> AsyncIterator[Opened]:
    async with (
        make() as ready,
        running_gateway(folder, [ready], **flags) as (gateway, _),
        aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
    ):
        yield Opened(service_pb2_grpc.GRPCInferenceServiceStub(channel), gateway, ready)


def with_gateway(
    run: Run,
    folder: Path,
    body: Callable[[Opened], Awaitable[Any]],
    make: Callable[[], FakeReplica] = FakeReplica,
    **flags: Any,
) -> Any:
    async def main() -> Any:
        async with opened(folder, make, **flags) as found:
            return await body(found)

    return run(main())


def echo(key: int = 7, **changes: Any) -> service_pb2.ModelInferRequest:
    """A request whose answer is its key and six."""
    columns = {"events": np.ones((1, 3, 2), np.float32), "key": np.full((1, 1), key, np.int64)}
    return request("echo", columns, **changes)


def value(answer: service_pb2.ModelInferResponse) -> float:
    return float(np.frombuffer(answer.raw_output_contents[0])[0])


async def error_of(call: Awaitable[Any]) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


async def until(done: Callable[[], Any], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not done():
            await asyncio.sleep(0.005)


class Talk:
    """A stream in a test's hands: what it says, and what it hears."""

    def __init__(self, stub: Any, timeout: float | None = None, **metadata: str) -> None:
        self.call = stub.ModelStreamInfer(timeout=timeout, metadata=tuple(metadata.items()))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()

    async def say(self, *messages: service_pb2.ModelInferRequest) -> None:
        for message in messages:
            await self.call.write(message)

    async def hear(self) -> service_pb2.ModelStreamInferResponse:
        """The next answer. Raises: AioRpcError once the stream has ended on an error."""
        answer = await self.call.read()
        assert answer is not aio.EOF, "the stream has ended"
        return answer

    async def rest(self) -> list[service_pb2.ModelStreamInferResponse]:
        """Whatever comes until the end, after the last word of ours."""
        await self.call.done_writing()
        return [answer async for answer in self.call]


async def converse(stub: Any, messages: Iterable[service_pb2.ModelInferRequest], **options: Any) -> list[Any]:
    """The answers to these, said without waiting for any."""
    async with Talk(stub, **options) as talk:
        await talk.say(*messages)
        return await talk.rest()
