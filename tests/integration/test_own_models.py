"""A team's own model, added as a directory, is served beside the shipped one; a broken one is not served at all."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tests import toy

from headrace import config, demo
from headrace.client import SyncScoringClient
from headrace.cluster import Cluster

pytestmark = pytest.mark.slow
Run = Callable[..., Any]
PAYMENT = {"ts": "2026-03-01T12:00:00Z", "amount": 33.0, "currency": "EUR", "country": "FR", "mcc": 5411}
FREE_PORTS = {"gateway__port": 0, "gateway__metrics_port": 0, "control__port": 0, "control__ledger": ":memory:"}


def cluster(tmp_path: Path, directory: Path, **flags: Any) -> Cluster:
    telemetry = {"telemetry__trace_dir": tmp_path / "traces", "telemetry__log_level": "ERROR"}
    return Cluster(config.load(None, {}, engine="local", model_dirs=[directory], **telemetry, **FREE_PORTS, **flags))


def ask(client: triton.InferenceServerClient, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tensors = []
    for name, values in (("INPUT0", left), ("INPUT1", right)):
        tensors.append(triton.InferInput(name, list(values.shape), "INT32"))
        tensors[-1].set_data_from_numpy(values)
    result = client.infer("sum-difference", tensors)
    return result.as_numpy("OUTPUT0"), result.as_numpy("OUTPUT1")


def test_a_model_of_ones_own_answers_tritonclient_beside_the_shipped_one(run: Run, tmp_path: Path, root: Path) -> None:
    rng = np.random.default_rng(1)
    batches = [rng.integers(-1000, 1000, (2, rows, 16), np.int32) for rows in (1, 3, 64)]

    def blocking(address: str) -> tuple[list[Any], list[str], float]:
        with triton.InferenceServerClient(address) as client:
            answers = [ask(client, left, right) for left, right in batches]
            served = [model.name for model in client.get_model_repository_index().models]
        with SyncScoringClient(address, timeout_s=5) as scorer:
            return answers, sorted(served), scorer.score(PAYMENT).p

    async def main() -> tuple[list[Any], list[str], float]:
        async with cluster(
            tmp_path, root / "tests" / "fixtures" / "models", only=["fraud-tx", "sum-difference"]
        ) as running:
            return await asyncio.to_thread(blocking, running.address)

    answers, served, p = run(main(), timeout_s=120)

    assert served == ["fraud-tx", "sum-difference"]
    assert 0 < p < 1
    for (left, right), (total, difference) in zip(batches, answers, strict=True):
        np.testing.assert_array_equal(total, left + right)
        np.testing.assert_array_equal(difference, left - right)


def test_a_broken_model_ends_serve_with_its_sentence_and_78(tmp_path: Path) -> None:
    """Its files are right, so that only the replica finds out: the outputs are not what the spec says."""
    directory = toy.write(tmp_path / "models", "total = total.squeeze(0)")
    environment = {**os.environ, "HEADRACE_GATEWAY__PORT": "0", "HEADRACE_CONTROL__PORT": "0"}
    arguments = ["--engine", "local", "--models", str(directory.parents[1]), "--only", "toy"]
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "serve", *arguments],
        env={**environment, "HEADRACE_GATEWAY__METRICS_PORT": "0", "HEADRACE_TELEMETRY__LOG_LEVEL": "ERROR"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 78
    why = "headrace: toy/1: warm-up with 1 rows failed: output 'total' has shape [1], the spec says [1, 1]"
    assert done.stderr.splitlines() == [why, why]  # the replica says it, and so does what started it, as it ends
    assert "headrace serves on" not in done.stdout


def test_only_the_models_asked_for_are_started(tmp_path: Path, root: Path) -> None:
    fixtures = root / "tests" / "fixtures" / "models"
    some = cluster(tmp_path, fixtures, only=["sum-difference"])
    everything = cluster(tmp_path, fixtures)
    of_the_demo = Cluster(demo.settings_of_the_demo(everything.settings))

    assert [model.name for model in some.models] == ["sum-difference"]
    shipped = ["acceptance", "fraud-gru", "fraud-tx"]
    assert [model.name for model in everything.models] == [*shipped, "simple_string", "sum-difference"]
    assert [model.name for model in of_the_demo.models] == ["fraud-tx"]
