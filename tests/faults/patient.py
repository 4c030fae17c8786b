"""The model that falls ill: well, it answers twice its number and one; ill, it does what its row or a file tells it."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from headrace_models import writing

NAME: Final = "patient"
WELL, RAISES, NAN, NO_MEMORY, HELD = range(5)
"""What a row may have. HELD: its batch takes as many seconds more as the row says, and a file says where it runs."""
MAX_ROWS: Final = 8
ENOUGH_MEMORY_FOR: Final = 2
"""Rows that the device has memory for while it is `short`."""

SOURCE: Final = f"""
import os
import time
from pathlib import Path

import torch

FOLDER = Path("NOTES")
TAKES_S = 0.002


def said(what):
    "What a test says of this process; empty = nothing."
    try:
        return (FOLDER / f"{{os.getpid()}}.{{what}}").read_text()
    except OSError:
        return ""


class Patient(torch.nn.Module):
    def forward(self, inputs, lengths):
        number, ill, seconds = inputs["x"].unbind(1)
        time.sleep(TAKES_S + float(said("slow") or 0))
        if (ill == {HELD}).any():
            (FOLDER / f"{{os.getpid()}}.holds").touch()
            time.sleep(float(seconds[ill == {HELD}].max()))
        if (ill == {RAISES}).any():
            raise ValueError("ill")
        if (ill == {NO_MEMORY}).any() or (said("short") and len(number) > {ENOUGH_MEMORY_FOR}):
            (FOLDER / f"{{os.getpid()}}.lacked").touch()
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        answer = 2 * number + 1
        answer[ill == {NAN}] = torch.nan
        return {{"y": answer[:, None]}}


def build(config):
    return Patient()
"""


def write(models: Path, notes: Path, version: int = 1) -> Path:
    """`models/patient/<version>`. Its processes read and write files in `notes`, which is made."""
    notes.mkdir(exist_ok=True)
    directory = models / NAME / str(version)
    directory.mkdir(parents=True)
    (directory / "model.py").write_text(SOURCE.replace("NOTES", str(notes)))
    described: dict[str, Any] = {
        "description": "Twice the number, and one",
        "factory": "model.py:build",
        "inputs": [{"name": "x", "datatype": "FP32", "dims": [3]}],
        "outputs": [{"name": "y", "datatype": "FP32", "dims": [1]}],
        "max_rows": MAX_ROWS,
    }
    module = runpy.run_path(str(directory / "model.py"))["build"]({})
    writing.write(directory, module, described, {"x": np.array([[1, WELL, 0], [2, WELL, 0]], np.float32)}, {})
    return directory


def columns(number: int, ill: int = WELL, seconds: float = 0.0) -> dict[str, npt.NDArray[Any]]:
    return {"x": np.array([[number, ill, seconds]], np.float32)}


def right(number: int) -> float:
    return 2.0 * number + 1
