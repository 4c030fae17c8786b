"""A gateway over fake replicas: everything of it real, its control and its models in the test's hands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from headrace import doors
from headrace.config import Settings, load
from headrace.control.server import ControlServer
from headrace.gateway.server import Gateway
from headrace.serving.registration import RegistrationLoop
from headrace.testing.replica import FakeReplica
from headrace.v1 import control_pb2


def settings(trace_dir: Path, **flags: Any) -> Settings:
    """Settings with free ports and traces in a test's own folder; `flags` as in `config.load`."""
    free = {"gateway__port": 0, "gateway__metrics_port": 0, "control__port": 0, "control__ledger": ":memory:"}
    flags = free | flags
    return load(None, {}, telemetry__trace_dir=trace_dir, **flags)


@asynccontextmanager
async def running_gateway(
    trace_dir: Path, replicas: Sequence[FakeReplica], **flags: Any
) -> AsyncIterator[tuple[Gateway, ControlServer]]:
    """Control, these replicas registered with it, and a gateway that has them ready."""
    chosen = settings(trace_dir, **flags)
    async with ControlServer(chosen) as control:
        address = f"127.0.0.1:{control.port}"
        shown = doors.credentials(chosen)
        registrations = [RegistrationLoop(address, each.registration, control_pb2.Load, shown) for each in replicas]
        for loop in registrations:
            loop.start()
            await loop.wait_registered()
        async with Gateway(chosen, address) as gateway:
            if replicas:
                await gateway.wait_ready(10)
            yield gateway, control
        for loop in registrations:
            await loop.close()
