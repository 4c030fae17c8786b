"""What a system tells `process.running` about itself: how to start it, and where it then answers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import environments

BENCHMARKS = Path(__file__).parents[1]
INSIDE = Path(__file__).parent / "inside"
MODELS = {"W1": "w1-encoder", "W2": "w2-ragged"}
MAX_ROWS = 64
CAP = 128


@dataclass(frozen=True)
class Launch:
    command: list[str]
    environment: dict[str, str]
    address: str
    metrics: str | None = None
    """host:port of a Prometheus page that counts `nv_inference_request_success`, where the system has one."""


def packages_of(peer: str) -> str:
    """Where an environment's packages lie."""
    (found,) = (environments.FOLDER / peer / "lib").glob("python3*/site-packages")
    return str(found)


def peer_environment(workload: str, *paths: str) -> dict[str, str]:
    """What a peer's processes see: our model room, the code in inside/, one thread; no setting of headrace or Ray."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "RAY_", "OTEL_"))}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join([*paths, str(INSIDE), str(BENCHMARKS.parent / "models")]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "BENCH_WORKLOAD": workload,
        "BENCH_MODEL": MODELS[workload],
        "BENCH_MODEL_DIRECTORY": str(BENCHMARKS / "repository" / MODELS[workload] / "1"),
    }
