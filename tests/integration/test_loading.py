"""Models loaded and unloaded under load, as plain processes of a whole cluster: nobody who was accepted notices."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tests import adder
from tests.load import ready_replicas
from tests.steady import Steady

from headrace import config
from headrace.cluster import Cluster
from headrace.serving.deploy import LocalDeployer

pytestmark = pytest.mark.upgrades
Run = Callable[..., Any]
SUPERVISED_S = 1.5
"""A supervisor would have started a lost child again by then: the check's period and the first back-off."""


def explicit(tmp_path: Path, **flags: Any) -> Cluster:
    """A cluster that serves version 1 of the adder."""
    adder.write(tmp_path / "models", 1)
    chosen = config.load(
        None,
        {},
        engine="local",
        model_dirs=[tmp_path / "models"],
        only=["adder"],
        gateway__port=0,
        gateway__metrics_port=0,
        control__port=0,
        control__ledger=":memory:",
        control__model_control="explicit",
        telemetry__trace_dir=tmp_path / "traces",
        telemetry__log_level="ERROR",
        **flags,
    )
    return Cluster(chosen)


def damage(directory: Path) -> None:
    """Golden rows that its module does not give: found out in the replica, after its weights were taken."""
    with np.load(directory / "golden.npz") as golden:
        arrays = dict(golden)
    np.savez(directory / "golden.npz", **{**arrays, "output.y": arrays["output.y"] + 1})


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids_of(cluster: Cluster) -> list[int]:
    assert isinstance(cluster.deployer, LocalDeployer)
    return [child.pid for child in cluster.deployer.children if child.pid]


def test_versions_come_and_a_model_goes_under_load_and_nobody_who_was_accepted_notices(
    run: Run, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    gone = "NOT_FOUND: [request id: <id_unknown>] Request for unknown model: 'adder' has no available versions"

    async def main() -> Any:
        async with (
            explicit(tmp_path, gateway__processes=2) as cluster,
            triton.InferenceServerClient(cluster.address) as client,
        ):
            callers = Steady(cluster.address, adder.QUESTION)
            async with callers.asking():
                await callers.answered()
                adder.write(tmp_path / "models", 2)
                begun = time.monotonic()
                await client.load_model("adder")
                record_property("loaded beside the other version, s", round(time.monotonic() - begun, 2))
                await callers.answered(version="2")
                damage(adder.write(tmp_path / "models", 3))
                with pytest.raises(triton.InferenceServerException) as broken:
                    await client.load_model("adder")
                await callers.answered(version="2")
                loading = dict(callers.results)

                before = pids_of(cluster)
                # Of version 1, which nobody asks: its supervisor is about to start it again.
                os.kill(before[0], signal.SIGKILL)
                begun = time.monotonic()
                await client.unload_model("adder")
                record_property("two versions unloaded, s", round(time.monotonic() - begun, 2))
                await asyncio.sleep(SUPERVISED_S)
                states = await client.get_model_repository_index(as_json=True)
                registered = set(await ready_replicas(cluster, "adder")) - {before[0]}  # its lease may not have ended
                left = registered, pids_of(cluster), list(filter(is_running, before))

                shutil.rmtree(tmp_path / "models" / "adder" / "3")
                await client.load_model("adder")
                answered = callers.versions["2"]
                await callers.answered(version="2")
                assert callers.versions["2"] > answered
            return loading, broken.value, states["models"], left, callers

    loading, broken, states, left, callers = run(main(), timeout_s=100)

    assert set(loading) == {"right"}, loading
    assert broken.status() == "StatusCode.INTERNAL"
    assert broken.message().startswith("failed to load 'adder', version 3 is not available: ")
    assert "away from its golden value" in broken.message()
    assert {one["version"]: one["state"] for one in states if one["name"] == "adder"} == dict.fromkeys(
        "123", "UNAVAILABLE"
    )
    assert left == (set(), [], [])
    assert set(callers.results) == {"right", gone}, callers.results
