"""The Open Inference Protocol over a real socket: a gateway, one fake replica, and questions for its model `echo`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.client import request
from headrace.gateway.server import Gateway
from headrace.testing.gateway import running_gateway
from headrace.testing.replica import FakeReplica

Run = Callable[..., Any]
Stub = Any
Body = Callable[[Stub, Gateway, FakeReplica], Awaitable[Any]]


def columns(length: int = 3, key: int = 7, rows: int = 1, value: float = 1.0) -> dict[str, np.ndarray]:
    return {
        "events": np.full((rows, length, 2), value, np.float32),
        "key": np.full((rows, 1), key, np.int64),
    }


def ask(**changes: Any) -> service_pb2.ModelInferRequest:
    return request("echo", columns(), **changes)


def with_gateway(
    run: Run,
    tmp_path: Path,
    body: Body,
    *,
    replica: Callable[[], FakeReplica] = FakeReplica,
    **flags: Any,
) -> Any:
    """What `body` returns of a stub, the gateway and the replica behind it."""

    async def main() -> Any:
        async with (
            replica() as behind,
            running_gateway(tmp_path, [behind], **flags) as (gateway, _),
            aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            return await body(service_pb2_grpc.GRPCInferenceServiceStub(channel), gateway, behind)

    return run(main())


async def error_of(call: Awaitable[Any]) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


def value(answer: service_pb2.ModelInferResponse) -> list[float]:
    return np.frombuffer(answer.raw_output_contents[0]).tolist()


def told(error: aio.AioRpcError) -> tuple[str, str]:
    """Its code's name, and what its caller reads."""
    code: grpc.StatusCode = error.code()
    return code.name, error.details() or ""
