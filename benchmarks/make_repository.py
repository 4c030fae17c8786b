"""Writes benchmarks/repository: the models that `make bench` serves. Their weights are random and fixed by a seed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np

from headrace_models import writing

REPOSITORY = Path(__file__).parent / "repository"
SOURCE = REPOSITORY / "w1-encoder" / "1" / "model.py"
sys.path.insert(0, str(SOURCE.parent))
import model as encoder  # noqa: E402  the code of both models

MODELS = {
    "w1-encoder": {"ragged": False, "dims": [32, 16], "description": "Fixed length: FP32 [1, 32, 16]"},
    "w2-ragged": {"ragged": True, "dims": [-1, 16], "description": "Ragged: FP32 [1, T, 16], T up to 128"},
}


def write(name: str, described: dict) -> None:
    directory = REPOSITORY / name / "1"
    directory.mkdir(parents=True, exist_ok=True)
    if directory != SOURCE.parent:
        shutil.copy(SOURCE, directory / "model.py")
    module = encoder.build(described)
    axis = {"axis": "events"} if described["ragged"] else {}
    tree = {
        "description": described["description"],
        "factory": "model.py:build",
        "config": {"ragged": described["ragged"]},
        "inputs": [{"name": "events", "datatype": "FP32", "dims": described["dims"], **axis}],
        "outputs": [{"name": "score", "datatype": "FP32", "dims": [1]}],
        "axes": [{"name": "events", "cap": 128, "required": True}] if described["ragged"] else [],
        "max_rows": 64,
        "max_tokens": 8192,
        "warmup": [{"rows": rows, "lengths": {"events": 32} if described["ragged"] else {}} for rows in (1, 8, 32, 64)],
    }
    writing.write(directory, module, tree, *golden_rows(ragged=described["ragged"]))


def golden_rows(*, ragged: bool) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    lengths = np.array([1, 7, 8, 9, 31, 64, 128, 3], np.int64)
    shape = (int(lengths.sum()), 16) if ragged else (8, 32, 16)
    return {"events": rng.normal(size=shape).astype(np.float32)}, {"events": lengths} if ragged else {}


if __name__ == "__main__":
    for each, described in MODELS.items():
        write(each, described)
