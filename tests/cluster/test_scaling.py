"""Replicas follow the load over the nodes of a Ray cluster: there before callers miss their deadlines, gone after.

The model sleeps: what it takes does not depend on how many replicas share this machine's cores, so that twice as many
do twice as much here as on machines of their own. All else is real: nodes, Serve, gateway, control, deadlines.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from grpc import aio
from tests.load import ready_replicas
from tritonclient.grpc import service_pb2_grpc

from headrace import config
from headrace.client import request
from headrace.cluster import Cluster
from headrace.serving.serve_config import ENVIRONMENT
from headrace_models import writing

pytestmark = [
    pytest.mark.scaling,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray's own
]
RUN_S: Final = 0.05
ROWS: Final = 4
"""A batch of so many rows takes `RUN_S`: one replica does 80 rows a second, if they come in full batches."""
LOAD: Final = 43.0
"""Rows a second: 0.54 of a replica. Twice as many are 1.08, which one can't answer and two can."""
DEADLINE_S: Final = 0.5
SETTLED_S: Final = 20.0
"""By then a load is no rush any more: what it asked for ahead has come and gone again."""
CATCH_UP_S: Final = 2.0
"""What waits is answered so soon after the second replica is there. That is well within 10 s, unless the machine is too
busy to import torch: a start is no matter of scaling."""
GROUP: Final = "headrace-sleepers"
MODULE: Final = f"""
import time
import torch

class Sleeper(torch.nn.Module):
    def forward(self, inputs, lengths):
        time.sleep({RUN_S})
        return {{"y": inputs["x"].sum(1, keepdim=True)}}

def build(config):
    return Sleeper()
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A directory of one model, whose forward pass sleeps."""
    directory = tmp_path / "models" / "sleeper" / "1"
    directory.mkdir(parents=True)
    (directory / "model.py").write_text(MODULE)
    names: dict[str, Any] = {}
    exec(MODULE, names)  # noqa: S102  the lines above
    described = {
        "description": "Sleeps, then adds up",
        "factory": "model.py:build",
        "inputs": [{"name": "x", "datatype": "FP32", "dims": [2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "dims": [1]}],
        "max_rows": ROWS,
    }
    writing.write(directory, names["build"]({}), described, {"x": np.ones((2, 2), np.float32)}, {})
    return tmp_path / "models"


@pytest.fixture
def folder() -> Iterator[str]:
    """For sockets and logs of Ray: not below TMPDIR, as paths of sockets must be short."""
    found = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    yield found
    shutil.rmtree(found, ignore_errors=True)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch, folder: str) -> Iterator[None]:
    """A head that runs no replica, and two nodes with room for one each."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster as Nodes  # noqa: PLC0415  only now are its variables set

    small = {"object_store_memory": 80 << 20}
    found = Nodes(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "temp_dir": folder, **small}
    )
    for _ in range(2):
        found.add_node(num_cpus=1, resources={GROUP: 1000}, **small)
    monkeypatch.setenv("RAY_ADDRESS", found.address)
    yield
    found.shutdown()


@pytest.fixture
def settings(models: Path, tmp_path: Path) -> config.Settings:
    scaled = {
        "autoscaling": {"min_replicas": 1, "max_replicas": 2, "downscale_delay_s": 2},
        "num_cpus": 1,
        "resources": {GROUP: 0.001},
    }
    return config.load(
        None,
        {},
        model_dirs=[models],
        only=["sleeper"],
        models={"sleeper": scaled},
        gateway__port=0,
        gateway__metrics_port=0,
        control__port=0,
        control__ledger=":memory:",
        telemetry__trace_dir=tmp_path / "traces",
        telemetry__log_level="ERROR",
    )


@dataclass
class Callers:
    """An open loop: one row every 1/`rows_s`, whatever becomes of those before."""

    address: str
    rows_s: float = LOAD
    asked: list[tuple[float, str]] = field(default_factory=list)
    """When each was sent, and what came of it: its answer, or the name of a status."""
    stopping: bool = False

    async def run(self) -> None:
        async with aio.insecure_channel(self.address) as channel, asyncio.TaskGroup() as group:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            due = time.monotonic()
            while not self.stopping:
                group.create_task(self._ask(stub))
                due += 1 / self.rows_s
                await asyncio.sleep(due - time.monotonic())

    async def _ask(self, stub: Any) -> None:
        sent, message = time.monotonic(), request("sleeper", {"x": np.ones((1, 2), np.float32)})
        try:
            answer = await stub.ModelInfer(message, timeout=DEADLINE_S)
        except aio.AioRpcError as error:
            self.asked.append((sent, error.code().name))
        else:
            self.asked.append((sent, f"{np.frombuffer(answer.raw_output_contents[0], '<f4')[0]:g}"))

    def missed(self, since: float, until: float) -> float:
        """Of those sent between, the share that got no answer in time."""
        outcomes = [outcome for sent, outcome in self.asked if since <= sent < until]
        return sum(outcome != "2" for outcome in outcomes) / len(outcomes)


async def until(cluster: Cluster, count: int) -> float:
    """Until so many replicas are ready: when that was."""
    while len(await ready_replicas(cluster, "sleeper")) != count:
        await asyncio.sleep(0.05)
    return time.monotonic()


async def until_asked_for(count: int) -> float:
    """Until Serve has so many, those that start included: when that was."""
    from ray import serve  # noqa: PLC0415  only now are its variables set

    while True:
        status = await asyncio.to_thread(serve.status)
        if sum(status.applications["sleeper-1"].deployments["replica"].replica_states.values()) == count:
            return time.monotonic()
        await asyncio.sleep(0.1)


@pytest.mark.usefixtures("nodes")
def test_replicas_follow_a_doubled_load_within_its_deadlines_and_go_when_it_ends(
    run: Callable[..., Any], settings: config.Settings, record_property: Callable[[str, object], None]
) -> None:
    async def main() -> dict[str, float]:
        async with Cluster(settings) as cluster:
            callers = Callers(cluster.address)
            calling = asyncio.create_task(callers.run())
            await asyncio.sleep(SETTLED_S)
            alone = await until(cluster, 1)
            await asyncio.sleep(2)
            callers.rows_s = 2 * LOAD
            doubled = time.monotonic()
            asked = await until_asked_for(2)
            followed = await until(cluster, 2)
            in_time = max(doubled + 10, followed + CATCH_UP_S)
            await asyncio.sleep(in_time + 6 - time.monotonic())
            steady = len(await ready_replicas(cluster, "sleeper"))
            callers.stopping = True
            ended = time.monotonic()
            await calling
            shrunk = await until(cluster, 1)
        return {
            "missed before, %": 100 * callers.missed(alone, doubled),
            "second replica asked for, s": asked - doubled,
            "second replica ready, s": followed - doubled,
            "missed before it was, %": 100 * callers.missed(doubled, followed),
            "missed from 10 s on, %": 100 * callers.missed(doubled + 10, ended),
            "missed once it was, %": 100 * callers.missed(in_time, ended),
            "replicas under it": steady,
            "shrunk, s": shrunk - ended,
        }

    found = run(main(), timeout_s=300)
    for name, figure in found.items():
        record_property(name, round(figure, 2))

    assert found["missed before, %"] < 1
    assert found["second replica asked for, s"] < 5
    assert found["missed once it was, %"] < 1
    assert found["replicas under it"] == 2
    assert found["shrunk, s"] < 15
