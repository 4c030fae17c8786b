"""On a real Ray Serve: the replica is placed, warmed, scored, killed under load, replaced, and gone at the end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.load import Load, ready_replicas, until_replicas

from headrace import config
from headrace.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(300)]


CONTROL_AWAY_S = 20.0


def test_killed_stopped_and_without_control_on_ray_serve_no_caller_notices(
    run: Callable[..., Any], tmp_path: Path, root: Path, record_property: Callable[[str, object], None]
) -> None:
    """Two Serve replicas under load; one killed, then one stopped, then control away for 20 s."""
    chosen = config.load(
        None,
        {},
        model_dirs=[root / "benchmarks" / "repository"],
        only=["fraud-tx", "w1-encoder", "w2-ragged"],
        models={"w1-encoder": {"replicas": 2}},
        gateway__port=0,
        gateway__metrics_port=0,
        control__port=0,
        control__ledger=":memory:",
        telemetry__trace_dir=tmp_path / "traces",
        telemetry__log_level="ERROR",
    )

    async def main() -> tuple[Any, float, dict[str, float]]:
        times = {}
        async with Cluster(chosen) as cluster:
            await until_replicas(cluster, 2)
            load = Load(cluster.address, root)
            loading = asyncio.create_task(load.run(4))
            await asyncio.sleep(1)
            (first, second) = await ready_replicas(cluster, "w1-encoder")
            os.kill(first, signal.SIGKILL)
            times["killed replica replaced, s"] = await until_replicas(cluster, 2, without=first)
            os.kill(second, signal.SIGSTOP)
            times["stopped replica replaced, s"] = await until_replicas(cluster, 2, without=second)
            await cluster.control.stop(timeout_s=0)
            await asyncio.sleep(CONTROL_AWAY_S)
            await cluster.control.start()
            times["control back with both replicas, s"] = await until_replicas(cluster, 2)
            await asyncio.sleep(0.5)
            load.stop()
            await loading
        return load.results, load.slowest_s, times

    results, slowest_s, times = run(main(), timeout_s=280)
    for name, seconds in times.items():
        record_property(name, round(seconds, 2))

    assert set(results) == {"right"}, results
    assert slowest_s < 3
    left = subprocess.run(["pgrep", "-f", "raylet.*" + str(os.getpid())], capture_output=True, check=False)
    assert left.stdout == b""
