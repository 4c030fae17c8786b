"""A replica as a Ray Serve deployment, a thin shell: Serve places, checks and replaces it; no request passes it.

With `deploy_ray` the only file that imports Ray. `build` is the import path of an application; one per model version.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Any, Final

import ray
from ray import serve
from ray.experimental import internal_kv

from headrace import doors
from headrace.credentials import is_local
from headrace.serving import serve_config, weights
from headrace.serving.fetch import fetch
from headrace.serving.replica import ReplicaServer
from headrace.telemetry import logging as logs

log = logging.getLogger(__name__)

BEGAN: Final = b"headrace-began-us"


class ServeReplica:
    """Holds a ReplicaServer for as long as Serve holds this actor."""

    async def __init__(self, arguments: dict[str, Any]) -> None:  # type: ignore[misc]
        """Returns when the replica is warm and control knows it: then Serve calls it RUNNING."""
        given = serve_config.arguments(arguments)
        settings = given.settings
        logs.configure(settings.telemetry.log_level)
        if given.source:
            await asyncio.to_thread(fetch, given.source, given.directory)
        model = weights.read(given.directory)
        self.replica = ReplicaServer(
            model, settings.replica, settings.model(model.name), given.control, doors.of(settings)
        )
        local = is_local(f"{settings.replica.host}:0")
        address = settings.replica.host if local else ray.util.get_node_ip_address()
        await self.replica.start(address, os.environ.get("RAY_CLUSTER_NAME", ""), _began_us())
        await self.replica.registration.wait_registered()

    async def check_health(self) -> None:
        """Raises three times in a row: Serve replaces the replica."""
        self.replica.assert_healthy()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve scales this version by. A coroutine: others would run in a thread, beside the loop that counts."""
        return self.replica.demand.report()

    async def pid(self) -> int:
        """The actor's process, for tests that kill it."""
        return os.getpid()

    async def __del__(self) -> None:
        """Serve awaits this before it ends the actor. The constructor may have failed half-way."""
        if replica := getattr(self, "replica", None):
            await replica.stop()


def _began_us() -> int:
    """When the first replica of this Ray cluster started, Unix microseconds.

    In the cluster's own store, which outlives that replica: control may start anew when it is gone.
    """
    internal_kv._internal_kv_put(BEGAN, str(time.time_ns() // 1000), overwrite=False)  # noqa: SLF001  the first stays
    return int(internal_kv._internal_kv_get(BEGAN))  # noqa: SLF001


def build(arguments: dict[str, Any]) -> serve.Application:
    """One application for one model version; `serve_config.Arguments` says of what. Reads no model: the head has none.

    How many replicas there are is not among them: the file's `deployments` say so; one, where it has none.
    Raises: StartupError, one line, when the arguments are wrong.
    """
    given = serve_config.arguments(arguments)
    return bound(arguments, serve_config.deployment(given.settings, given.model))


def bound(arguments: dict[str, Any], options: dict[str, Any]) -> serve.Application:
    """The application of these arguments, run as `serve_config.deployment` says."""
    return serve.deployment(**options)(ServeReplica).bind(dict(arguments))
