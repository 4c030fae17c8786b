"""The Ray Serve deployer: a Ray cluster on this machine (or the one RAY_ADDRESS names), an application per version."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Sequence
from typing import Any, Final

from headrace.config import Settings
from headrace.errors import StartupError
from headrace.serving import serve_config
from headrace.serving.weights import FoundModel

LOGICAL_CPUS: Final = 16
"""Actors on one machine are not placed by CPU shares; this only has to be enough."""


class RayDeployer:
    """Applications on Ray Serve; every blocking call of Ray runs in a thread."""

    def __init__(self, settings: Settings, control_address: str) -> None:
        self._settings = settings
        self._control_address = control_address
        self._started = False
        self._names: list[str] = []
        self._folder = ""
        """Sockets and logs of a Ray of our own. Gone after `stop`."""

    async def deploy(self, models: Sequence[FoundModel]) -> None:
        """Start Ray, the first time, and the replicas. They are READY at control when this returns.

        Ray forks, and a fork beside gRPC's threads may hang: call it first in a process that has not used gRPC yet.
        Raises: StartupError, with Ray's own words, when Ray or a version does not start.
        """
        if not self._started:
            await asyncio.to_thread(self._start_ray)
        self._names += [name for name in map(_name, models) if name not in self._names]
        await asyncio.to_thread(self._run, models)

    async def load(self, model: FoundModel) -> None:
        """Serve replaces what dies by itself: a version that it has is left alone, it would make all replicas anew."""
        if _name(model) in self._names:
            return
        try:
            await self.deploy([model])
        except Exception:
            await self._end(_name(model))  # Serve would keep it, and try again
            raise

    async def unload(self, model: str, versions: Collection[str]) -> None:
        await asyncio.gather(*(self._end(f"{model}-{version}") for version in versions))

    async def stop(self) -> None:
        """Drain and end every replica, then the Ray cluster that was started here."""
        if self._started:
            await asyncio.gather(*(asyncio.to_thread(self._delete, name) for name in self._names))
            await asyncio.to_thread(self._shut_down)
        if self._folder:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def _end(self, name: str) -> None:
        """Every replica of it drains, and Serve forgets it. Where that fails, it may be asked again, or loaded anew."""
        try:
            await asyncio.to_thread(self._delete, name)
        finally:
            if name in self._names:
                self._names.remove(name)

    def _start_ray(self) -> None:
        for name, value in serve_config.ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import ray  # noqa: PLC0415  only now are its variables set
        from ray import serve  # noqa: PLC0415

        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
        if "RAY_ADDRESS" not in os.environ:
            options |= {
                "address": "local",
                "num_cpus": LOGICAL_CPUS,
                "object_store_memory": 200 << 20,
                "_temp_dir": self._make_folder(),
            }
        try:
            ray.init(**options)
        except (RuntimeError, ConnectionError, ValueError) as error:
            raise StartupError(f"Ray did not start: {_one_line(error)}") from error
        self._started = True
        for name in ("ray", "ray.serve"):
            logging.getLogger(name).setLevel(logging.ERROR)
        serve.start(proxy_location="Disabled")

    def _run(self, models: Sequence[FoundModel]) -> None:
        """Start every application, and wait until all are RUNNING: warm, and known to control."""
        from ray import serve  # noqa: PLC0415

        from headrace.serving.app import bound  # noqa: PLC0415

        config = serve_config.of(self._settings, [model.directory for model in models], self._control_address)
        targets = [
            serve.RunTarget(bound(one["args"], one["deployments"][0]), one["name"], route_prefix=one["route_prefix"])
            for one in config["applications"]
        ]
        try:
            serve.run_many(targets)
        except RuntimeError as error:
            why = self._why([one["name"] for one in config["applications"]])
            raise StartupError(f"{_one_line(error)} {why}".rstrip()) from error

    @staticmethod
    def _why(names: Collection[str]) -> str:
        """What the constructors raised: Serve keeps it with the deployment, and its own error does not say it."""
        from ray import serve  # noqa: PLC0415

        applications = serve.status().applications
        messages = [
            deployment.message.strip().splitlines()[-1]
            for name in names
            if name in applications
            for deployment in applications[name].deployments.values()
            if deployment.status == "DEPLOY_FAILED" and deployment.message.strip()
        ]
        return "; ".join(messages)

    def _make_folder(self) -> str:
        self._folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # not below TMPDIR: paths of sockets must be short
        return self._folder

    def _delete(self, name: str) -> None:
        from ray import serve  # noqa: PLC0415

        serve.delete(name)

    def _shut_down(self) -> None:
        import ray  # noqa: PLC0415

        ray.shutdown()
        self._started = False


def _name(model: FoundModel) -> str:
    """Of its application."""
    return f"{model.name}-{model.version}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
