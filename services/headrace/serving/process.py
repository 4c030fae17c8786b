"""A replica as a plain process: what `headrace replica` runs, and what `--engine local` starts."""

from __future__ import annotations

import asyncio
from pathlib import Path

from headrace import doors
from headrace.config import Settings
from headrace.serving import weights
from headrace.serving.replica import ReplicaServer


async def serve_until(directory: Path, control_address: str, settings: Settings, stopped: asyncio.Event) -> None:
    """Serve one model version until somebody sets `stopped`, then drain. Raises: StartupError."""
    model = weights.read(directory)
    server = ReplicaServer(model, settings.replica, settings.model(model.name), control_address, doors.of(settings))
    try:
        await server.start(settings.replica.host)
        await _until_stopped_or_refused(server, stopped)
    finally:
        await server.stop()


async def _until_stopped_or_refused(server: ReplicaServer, stopped: asyncio.Event) -> None:
    """Wait for the signal; a registration that control refuses for good ends the process too."""
    refused = asyncio.ensure_future(server.registration.wait_registered())
    signal = asyncio.ensure_future(stopped.wait())
    await asyncio.wait({refused, signal}, return_when=asyncio.FIRST_COMPLETED)
    if refused.done():
        refused.result()
        await signal
    refused.cancel()
