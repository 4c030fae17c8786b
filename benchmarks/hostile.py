"""Challengers one would not want: fraud-tx with the shipped weights, whose forward pass turns hostile after a while.

Each kind is a version directory of its own, `FOLDER/<kind>/fraud-tx/2`; `healthy` stays what it is. All pass every
check at their start: nobody could have known.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

SHIPPED = Path(__file__).parents[1] / "models" / "repository" / "fraud-tx" / "1"
HEALTHY = "healthy"
HOSTILE = ("hang", "crash", "garbage", "slow", "memory")
PASSES = 20
"""Forward passes before it turns: the thirteen of its start, and a few that it is asked for."""
SOURCE = '''"""The shipped model; after {passes} passes: {kind}."""

import os
import signal
import time

import torch

from headrace_models import fraud_tx
from headrace_models.fraud_tx import vocabulary  # asked for by the loader

KIND, PASSES, HELD = "{kind}", {passes}, []


def build(config):
    module = fraud_tx.build(config)
    well, passed = module.forward, 0

    def forward(inputs, lengths):
        nonlocal passed
        passed += 1
        if passed <= PASSES:
            return well(inputs, lengths)
        if KIND == "hang":
            time.sleep(3600)
        if KIND == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if KIND == "slow":
            for _ in range(19):
                well(inputs, lengths)
        if KIND == "memory":
            HELD.append(torch.ones(16 * 2**20))
        answer = well(inputs, lengths)
        return {{name: values * 0 / 0 for name, values in answer.items()}} if KIND == "garbage" else answer

    module.forward = forward
    return module
'''


def write(folder: Path, kind: str) -> Path:
    """The directory of one kind, made anew. A kind that is not known is healthy."""
    directory = folder / kind / "fraud-tx" / "2"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(SHIPPED, directory)
    tree = yaml.safe_load((SHIPPED / "spec.yaml").read_text())
    (directory / "spec.yaml").write_text(yaml.safe_dump({**tree, "version": 2, "factory": "model.py:build"}))
    (directory / "model.py").write_text(SOURCE.format(kind=kind, passes=PASSES))
    return directory
