"""A replica as a Ray Serve deployment, a thin shell: Serve places, checks and replaces it; no request passes it.

With `deploy_ray` the only file that imports Ray. `build` is the import path of an application; one per model version.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any, Final

import ray
from ray import serve
from ray.experimental import internal_kv

from headrace import doors
from headrace.config import ModelSettings, Settings
from headrace.credentials import is_local
from headrace.serving import weights
from headrace.serving.replica import ReplicaServer
from headrace.telemetry import logging as logs

log = logging.getLogger(__name__)

OPTIONS: Final[dict[str, Any]] = {
    "health_check_period_s": 1,
    "health_check_timeout_s": 3,
    "graceful_shutdown_wait_loop_s": 0.1,  # Serve counts its own requests only: it reaches __del__ after one loop
    "graceful_shutdown_timeout_s": 20,  # more than drain + notice + grace
    "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
}

POLICY: Final = "headrace.serving.scaling:follow_deadlines"
"""By its path: Serve imports it where it reads the deployment, and pickles it for its controller."""


class ServeReplica:
    """Holds a ReplicaServer for as long as Serve holds this actor."""

    async def __init__(self, directory: str, control_address: str, settings_json: str) -> None:  # type: ignore[misc]
        """Returns when the replica is warm and control knows it: then Serve calls it RUNNING."""
        settings = Settings.model_validate_json(settings_json)
        logs.configure(settings.telemetry.log_level)
        model = weights.read(Path(directory))
        self.replica = ReplicaServer(
            model, settings.replica, settings.model(model.name), control_address, doors.of(settings)
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
    """When the first replica of this Ray cluster started, Unix microseconds: the cluster's store outlives that replica."""
    key = b"headrace-began-us"
    internal_kv._internal_kv_put(key, str(time.time_ns() // 1000), overwrite=False)  # noqa: SLF001  the first one stays
    return int(internal_kv._internal_kv_get(key))  # noqa: SLF001


def build(arguments: dict[str, str]) -> serve.Application:
    """One application for one model version. Arguments: directory, control, settings (JSON)."""
    settings = Settings.model_validate_json(arguments["settings"])
    model = weights.read(Path(arguments["directory"]))
    run = settings.model(model.name)
    deployment = serve.deployment(
        name="replica",
        ray_actor_options={"num_cpus": run.num_cpus, "num_gpus": run.num_gpus, "resources": dict(run.resources)},
        **_how_many(run),
        **OPTIONS,
    )
    return deployment(ServeReplica).bind(arguments["directory"], arguments["control"], arguments["settings"])


def _how_many(run: ModelSettings) -> dict[str, Any]:
    if run.autoscaling is None:
        return {"num_replicas": run.replicas}
    return {"autoscaling_config": {**run.autoscaling.model_dump(), "policy": {"policy_function": POLICY}}}
