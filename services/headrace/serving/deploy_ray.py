"""The Ray Serve deployer: a Ray cluster on this machine (or the one RAY_ADDRESS names), an application per version."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Sequence
from typing import Any, Final

from headrace.config import Settings
from headrace.errors import StartupError
from headrace.serving.weights import FoundModel

ENVIRONMENT: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",  # a hung replica must not keep its device
    "RAY_worker_niceness": "0",  # replicas share the cores with the gateway: neither goes first
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Read by Ray at import, in this process and in every one it starts."""
LOGICAL_CPUS: Final = 16
"""Actors on one machine are not placed by CPU shares; this only has to be enough."""


class RayDeployer:
    """Applications on Ray Serve; every blocking call of Ray runs in a thread."""

    def __init__(self, settings: Settings, control_address: str) -> None:
        self._settings = settings
        self._control_address = control_address
        self._started = False
        self._names: list[str] = []
        self._folder = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
        """Ray's own files. Socket paths must be short, hence /tmp."""

    async def deploy(self, models: Sequence[FoundModel]) -> None:
        """Start Ray and the replicas. Raises: StartupError, with Serve's own words, when a version does not start."""
        await asyncio.to_thread(self._start_ray)
        self._names = [f"{model.name}-{model.version}" for model in models]
        await asyncio.to_thread(self._run, models)

    async def stop(self) -> None:
        """Drain and end every replica, then the Ray cluster that was started here."""
        if self._started:
            await asyncio.to_thread(self._stop)

    def _start_ray(self) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import ray  # noqa: PLC0415  only now are its variables set
        from ray import serve  # noqa: PLC0415

        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
        if "RAY_ADDRESS" not in os.environ:
            options |= {
                "address": "local",
                "num_cpus": LOGICAL_CPUS,
                "object_store_memory": 200 << 20,
                "_temp_dir": tempfile.mkdtemp(prefix="ray-", dir="/tmp"),
            }
        ray.init(**options)
        self._started = True
        for name in ("ray", "ray.serve"):
            logging.getLogger(name).setLevel(logging.ERROR)
        serve.start(proxy_location="Disabled")

    def _run(self, models: Sequence[FoundModel]) -> None:
        """Start every application, and wait until all are RUNNING: warm, and known to control."""
        from ray import serve  # noqa: PLC0415

        from headrace.serving.app import build  # noqa: PLC0415

        common = {"control": self._control_address, "settings": self._settings.model_dump_json()}
        targets = [
            serve.RunTarget(build({"directory": str(model.directory), **common}), name, route_prefix=None)
            for model, name in zip(models, self._names, strict=True)
        ]
        try:
            serve.run_many(targets)
        except RuntimeError as error:
            raise StartupError(f"Ray Serve could not start the models: {' '.join(str(error).split())}") from error

    def _stop(self) -> None:
        import ray  # noqa: PLC0415
        from ray import serve  # noqa: PLC0415

        for name in self._names:
            serve.delete(name)
        ray.shutdown()
        self._folder.cleanup()
        self._started = False
