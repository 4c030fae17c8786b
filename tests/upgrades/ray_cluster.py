"""A Ray cluster in a process of its own, as one of several that one control and one gateway have.

Run: it deploys the directories and deletes the applications that its standard input names, and drains at its end.
Imported: `RayCluster` is that process in a test's hands.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from headrace.config import Settings


class RayCluster:
    """`async with RayCluster(...) as cluster`: there, and without a model yet; drained after, unless it was killed."""

    def __init__(self, name: str, settings: Settings, control_address: str) -> None:
        self._name = f"{name}-{os.getpid()}"
        self._folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # not below TMPDIR: paths of sockets must be short
        self._arguments = settings.model_dump_json(), control_address, self._folder
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, *self._arguments),
            env={**os.environ, "RAY_CLUSTER_NAME": self._name},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        if self._process.returncode is None:
            self._process.stdin.close()
            await self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def deploy(self, directory: Path) -> None:
        """Until it is RUNNING."""
        await self._do(f"deploy {directory}")

    async def delete(self, application: str) -> None:
        """Until its replicas have drained."""
        await self._do(f"delete {application}")

    async def kill(self) -> None:
        """Every process of it at once, as a machine's end does."""
        assert self._process is not None
        for process in self._processes():
            with contextlib.suppress(OSError):
                os.kill(int(process.name), signal.SIGKILL)
        await self._process.wait()

    def _processes(self) -> Iterator[Path]:
        """Those that have its name from us."""
        mark = f"RAY_CLUSTER_NAME={self._name}".encode()
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in environment.read_bytes().split(b"\0"):
                    yield environment.parent

    async def _do(self, command: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n".encode())
        while (line := await self._process.stdout.readline()) != f"done: {command}\n".encode():
            assert line, f"the cluster ended with {await self._process.wait()} at: {command}"


def start_node(folder: str) -> Any:
    """A head that replicas run on; its sockets and logs are in `folder`."""
    from headrace.serving.serve_config import ENVIRONMENT  # noqa: PLC0415  only here, and not where it is imported

    os.environ.update(ENVIRONMENT)
    from ray.cluster_utils import Cluster  # noqa: PLC0415  only now are its variables set

    # Without what it can do without: a node that cannot start all of its processes within 15 s gives up.
    few = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
    arguments = {"num_cpus": 2, "temp_dir": folder, "object_store_memory": 80 << 20, **few}
    found = Cluster(initialize_head=True, head_node_args=arguments)
    os.environ["RAY_ADDRESS"] = found.address
    return found


def main(settings: str, control_address: str, folder: str) -> None:
    from headrace.serving import weights  # noqa: PLC0415  likewise
    from headrace.serving.deploy_ray import RayDeployer  # noqa: PLC0415  likewise

    deployer = RayDeployer(Settings.model_validate_json(settings), control_address)
    with contextlib.ExitStack() as stack, asyncio.Runner() as runner:
        try:
            for line in sys.stdin:
                if "RAY_ADDRESS" not in os.environ:
                    stack.callback(start_node(folder).shutdown)
                verb, what = line.split()
                if verb == "deploy":
                    runner.run(deployer.deploy([weights.read(Path(what))]))
                else:
                    from ray import serve  # noqa: PLC0415

                    serve.delete(what)
                print(f"done: {line.strip()}", flush=True)  # noqa: T201  who gave the command waits for it
        finally:
            runner.run(deployer.stop())


if __name__ == "__main__":
    main(*sys.argv[1:])
