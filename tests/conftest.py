"""Fixtures only: what several suites start, and stop by its own handle."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from tests import rpc

from headrace.gateway import telling
from headrace.gateway.pressure import Pressure
from headrace.rpc.server import Server

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def root() -> Path:
    return ROOT


@pytest.fixture(autouse=True, scope="module")
def mask() -> Iterator[None]:
    """A command that serves closes its files to others: not those of the tests after it."""
    mask = os.umask(0o022)
    os.umask(mask)
    yield
    os.umask(mask)


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run one coroutine with a bound on its time."""

    def bounded(coroutine: Coroutine[Any, Any, Any], timeout_s: float = 60) -> Any:
        async def main() -> Any:
            async with asyncio.timeout(timeout_s):
                return await coroutine

        return asyncio.run(main())

    return bounded


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control is told of pairs as they come, not once a second, and no copies are shed because the machine is busy."""
    monkeypatch.setattr(telling, "TELL_S", 0.05)
    monkeypatch.setattr(Pressure, "observe", lambda *_: None)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(params=[Server, lambda: aio.server(options=rpc.OPTIONS)], ids=["ours", "grpc.aio"])
def make_server(request: pytest.FixtureRequest) -> Callable[[], Any]:
    """The rpc room's server, then grpc.aio's: what is asserted of one is asserted of the other."""
    found: Callable[[], Any] = request.param
    return found
