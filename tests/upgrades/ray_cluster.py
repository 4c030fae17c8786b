"""A Ray cluster in a process of its own, as one of several that one control and one gateway have.

Run: it deploys the directories, deletes the applications, takes and adds the nodes that its standard input names, and
drains at its end. Imported: `RayCluster` is that process in a test's hands.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

from headrace.config import Settings

WORKER: Final = "headrace-worker"
"""What a worker node has 1,000 of, and a head none."""


class RayCluster:
    """`async with RayCluster(...) as cluster`: there, and without a model yet; drained after, unless it was killed.

    `workers`: nodes beside the head. `environment`: more of it for every process there.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        control_address: str,
        workers: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._name = f"{name}-{os.getpid()}"
        self._folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # not below TMPDIR: paths of sockets must be short
        self._arguments = settings.model_dump_json(), control_address, self._folder, str(workers)
        self._environment = {**os.environ, **(environment or {}), "RAY_CLUSTER_NAME": self._name}
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, *self._arguments),
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None and self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            await self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def deploy(self, directory: Path) -> None:
        """Until it is RUNNING."""
        await self._do(f"deploy {directory}")

    async def delete(self, application: str) -> None:
        """Until its replicas have drained."""
        await self._do(f"delete {application}")

    async def lose_node_of(self, replica: int) -> None:
        """The worker node with this process, and all that runs there, at once."""
        await self._do(f"lose {replica}")

    async def add_node(self) -> None:
        """Another worker node, until the cluster knows it."""
        await self._do("add node")

    @property
    def pid(self) -> int:
        """Of the process above all of its nodes."""
        assert self._process is not None
        return self._process.pid

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


def start_nodes(folder: str, workers: int) -> Any:
    """A head that replicas run on, or so many workers beside it; sockets and logs are in `folder`."""
    from headrace.serving.serve_config import ENVIRONMENT  # noqa: PLC0415  only here, and not where it is imported

    os.environ.update(ENVIRONMENT)
    from ray.cluster_utils import Cluster  # noqa: PLC0415  only now are its variables set

    # Without what it can do without: a node that cannot start all of its processes within 15 s gives up.
    few = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
    arguments = {"num_cpus": 2, "temp_dir": folder, "object_store_memory": 80 << 20, **few}
    found = Cluster(initialize_head=True, head_node_args=arguments)
    for _ in range(workers):
        add_node(found)
    os.environ["RAY_ADDRESS"] = found.address
    return found


def add_node(nodes: Any) -> None:
    nodes.add_node(num_cpus=2, object_store_memory=80 << 20, resources={WORKER: 1000})


def lose_node(nodes: Any, process: int) -> None:
    """Every process of the worker node with this one: the node says goodbye to nobody."""
    raylet = parent(process)
    node = next(one for one in nodes.worker_nodes if raylet in raylets(one))
    for one in (raylet, *children(raylet)):
        with contextlib.suppress(OSError):
            os.kill(one, signal.SIGKILL)
    nodes.remove_node(node, allow_graceful=False)


def raylets(node: Any) -> list[int]:
    return [one.process.pid for one in node.all_processes["raylet"]]


def children(process: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            if parent(int(folder.name)) == process:
                found.append(int(folder.name))
    return found


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()[1])


def main(settings: str, control_address: str, folder: str, workers: str) -> None:
    from headrace.serving import weights  # noqa: PLC0415  likewise
    from headrace.serving.deploy_ray import RayDeployer  # noqa: PLC0415  likewise

    deployer = RayDeployer(Settings.model_validate_json(settings), control_address)
    with contextlib.ExitStack() as stack, asyncio.Runner() as runner:
        nodes: Any = None
        try:
            for line in sys.stdin:
                if nodes is None:
                    nodes = start_nodes(folder, int(workers))
                    stack.callback(nodes.shutdown)
                verb, what = line.split()
                if verb == "deploy":
                    runner.run(deployer.deploy([weights.read(Path(what))]))
                elif verb == "lose":
                    lose_node(nodes, int(what))
                elif verb == "add":
                    add_node(nodes)
                else:
                    from ray import serve  # noqa: PLC0415

                    serve.delete(what)
                print(f"done: {line.strip()}", flush=True)  # noqa: T201  who gave the command waits for it
        finally:
            runner.run(deployer.stop())


if __name__ == "__main__":
    main(*sys.argv[1:])
