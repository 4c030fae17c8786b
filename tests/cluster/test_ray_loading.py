"""On a real Ray Serve: a version is loaded beside the one that serves, a broken one is refused, a model is unloaded."""

from __future__ import annotations

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

pytestmark = [
    pytest.mark.upgrades,
    pytest.mark.cluster,
    pytest.mark.timeout(150),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray's own
]


def test_models_come_and_go_on_ray_serve_under_load(run: Callable[..., Any], tmp_path: Path) -> None:
    adder.write(tmp_path / "models", 1)
    chosen = config.load(
        None,
        {},
        model_dirs=[tmp_path / "models"],
        only=["adder"],
        gateway__port=0,
        gateway__metrics_port=0,
        control__port=0,
        control__ledger=":memory:",
        control__model_control="explicit",
        telemetry__trace_dir=tmp_path / "traces",
        telemetry__log_level="ERROR",
    )

    async def main() -> Any:
        async with Cluster(chosen) as cluster:
            client, callers = triton.InferenceServerClient(cluster.address), Steady(cluster.address, adder.QUESTION)
            async with client, callers.asking():
                await callers.answered()
                adder.write(tmp_path / "models", 2)
                await client.load_model("adder")
                await callers.answered(version="2")
                broken = adder.write(tmp_path / "models", 3)
                with np.load(broken / "golden.npz") as golden:
                    arrays = dict(golden)
                np.savez(broken / "golden.npz", **{**arrays, "output.y": arrays["output.y"] + 1})
                with pytest.raises(triton.InferenceServerException) as refused:
                    await client.load_model("adder")
                await callers.answered(version="2")
                loading = dict(callers.results)
                await client.unload_model("adder")
                left = await ready_replicas(cluster, "adder")
                index = await client.get_model_repository_index(as_json=True)
            return loading, refused.value.message(), left, index["models"], set(callers.results)

    loading, refused, left, index, results = run(main(), timeout_s=140)

    assert set(loading) == {"right"}, loading
    assert refused.startswith("failed to load 'adder', version 3 is not available: ")
    assert "away from its golden value" in refused
    assert left == []
    assert {one["state"] for one in index if one["name"] == "adder"} == {"UNAVAILABLE"}
    gone = "NOT_FOUND: [request id: <id_unknown>] Request for unknown model: 'adder' has no available versions"
    assert results <= {"right", gone}
