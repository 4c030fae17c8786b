"""A model that adds up, in versions that answer differently: who has answered shows in the answer."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
from tests.steady import Question

from headrace_models import writing

SOURCE = """
import time

import torch


class Adder(torch.nn.Module):
    def forward(self, inputs, lengths):
        time.sleep(0.002)
        return {"y": VERSION * inputs["x"].sum(1, keepdim=True)}


def build(config):
    return Adder()
"""
QUESTION = Question(
    "adder",
    lambda number: {"x": np.array([[number, 1]], np.float32)},
    lambda number, version: int(version) * (number + 1.0),
    "<f4",
)


def write(models: Path, version: int) -> Path:
    """`models/adder/<version>`, which multiplies the sum by its version."""
    directory = models / "adder" / str(version)
    directory.mkdir(parents=True)
    (directory / "model.py").write_text(SOURCE.replace("VERSION", str(version)))
    described = {
        "description": "Adds up, and multiplies",
        "factory": "model.py:build",
        "inputs": [{"name": "x", "datatype": "FP32", "dims": [2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "dims": [1]}],
        "max_rows": 16,
    }
    module = runpy.run_path(str(directory / "model.py"))["build"]({})
    writing.write(directory, module, described, {"x": np.ones((2, 2), np.float32)}, {})
    return directory
