"""`headrace score --wait`: told when the model is served, by whichever gateway is behind the address by then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from headrace.errors import NotServing
from headrace.rpc.health import SERVICE
from headrace.rpc.server import Server
from headrace.score_file import wait_ready
from headrace.serving.registration import RegistrationLoop
from headrace.testing.gateway import running_gateway
from headrace.testing.replica import FakeReplica
from headrace.v1 import control_pb2

Run = Callable[..., Any]
PATIENT_S = 20


def test_it_ends_when_the_first_replica_of_the_model_comes(run: Run, tmp_path: Path) -> None:
    async def main() -> bool:
        async with FakeReplica() as replica, running_gateway(tmp_path, []) as (gateway, control):
            address = f"127.0.0.1:{gateway.port}"
            waiting = asyncio.create_task(asyncio.to_thread(wait_ready, address, "echo", PATIENT_S))
            early, _ = await asyncio.wait([waiting], timeout=0.3)
            come = RegistrationLoop(f"127.0.0.1:{control.port}", replica.registration, control_pb2.Load)
            come.start()
            await waiting
            await come.close()
            return bool(early)

    assert run(main()) is False


def test_it_outlives_a_gateway_that_comes_late_and_one_that_goes(run: Run, tmp_path: Path, free_port: int) -> None:
    async def main() -> bool:
        waiting = asyncio.create_task(asyncio.to_thread(wait_ready, f"127.0.0.1:{free_port}", "echo", PATIENT_S))
        async with running_gateway(tmp_path, [], gateway__port=free_port):
            early, _ = await asyncio.wait([waiting], timeout=0.5)
        async with FakeReplica() as replica, running_gateway(tmp_path, [replica], gateway__port=free_port):
            await waiting
        return bool(early)

    assert run(main()) is False


def test_where_every_watch_ends_at_once_it_asks_now_and_then(run: Run) -> None:
    """As a proxy answers that has no gateway behind it."""
    asked = 0

    async def watch(_: Any, rpc: Any) -> None:
        nonlocal asked
        asked += 1
        await rpc.abort(grpc.StatusCode.UNAVAILABLE, "no healthy upstream")

    async def main() -> None:
        server = Server()
        methods = {"Watch": grpc.unary_stream_rpc_method_handler(watch)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        with pytest.raises(NotServing, match="model 'echo' is not ready"):
            await asyncio.to_thread(wait_ready, f"127.0.0.1:{port}", "echo", 0.5)
        await server.stop(None)

    run(main())

    assert 1 <= asked <= 10


def test_a_model_that_does_not_come_is_named_when_the_time_is_over(run: Run, tmp_path: Path) -> None:
    async def main() -> str:
        async with FakeReplica() as replica, running_gateway(tmp_path, [replica]) as (gateway, _):
            with pytest.raises(NotServing) as caught:
                await asyncio.to_thread(wait_ready, f"127.0.0.1:{gateway.port}", "nobody", 0.2)
            return str(caught.value)

    assert "model 'nobody' is not ready (DEADLINE_EXCEEDED" in run(main())


def test_nobody_listening_is_waited_for_no_longer_than_was_said(free_port: int) -> None:
    with pytest.raises(NotServing, match="model 'echo' is not ready"):
        wait_ready(f"127.0.0.1:{free_port}", "echo", 0.2)
