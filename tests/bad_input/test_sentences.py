"""A status quotes what its caller sent: no more of it than the caller's own client takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from headrace.testing.gateway import running_gateway
from headrace.testing.replica import FakeReplica

Run = Callable[..., Any]


@pytest.mark.parametrize("letter", ["x", "é", "😀", "\n", "%"])
def test_a_long_name_in_any_letters_is_quoted_in_a_status_that_arrives(run: Run, tmp_path: Path, letter: str) -> None:
    """Percent-encoded a letter takes up to twelve bytes, and gRPC's clients refuse a status of more than 8 KiB."""

    async def main() -> set[tuple[str, str]]:
        async with FakeReplica() as replica, running_gateway(tmp_path, [replica]) as (gateway, _):
            async with aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
                stub, found = service_pb2_grpc.GRPCInferenceServiceStub(channel), set()
                for _ in range(20):
                    with pytest.raises(aio.AioRpcError) as refused:
                        await stub.ModelInfer(service_pb2.ModelInferRequest(model_name=letter * 100_000), timeout=5)
                    found.add((refused.value.code().name, str(refused.value.details())[:80]))
                return found

    assert run(main()) == {
        ("NOT_FOUND", f"[request id: <id_unknown>] Request for unknown model: '{letter * 200}"[:80]),
    }
