"""A small model to break: the total and the number of a row's amounts, on an axis that may be empty."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from headrace_models import writing

SOURCE = """
import time

import torch
from torch import nn


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.calls = 0
        self.asked = []

    def forward(self, inputs, lengths):
        self.calls += 1
        amount, count = inputs["amount"], lengths["events"]
        row = torch.repeat_interleave(torch.arange(len(count)), count)
        total = self.scale * torch.zeros(len(count)).index_add(0, row, amount)
        total, count = total[:, None], count[:, None].clone()
        BROKEN
        return {"total": total, "count": count}

    def extras(self, inputs, lengths):
        self.asked.append(len(lengths["events"]))
        amount, count = inputs["amount"], lengths["events"]
        row = torch.repeat_interleave(torch.arange(len(count)), count)
        total = torch.zeros(len(count)).index_add(0, row, amount)
        why = torch.stack([total, count.float()], 1)
        EXPLAINED
        return {"why": why}


def build(config):
    return Toy()
"""
DESCRIBED: dict[str, Any] = {
    "factory": "model.py:build",
    "inputs": [{"name": "amount", "datatype": "FP32", "dims": [-1], "axis": "events"}],
    "outputs": [
        {"name": "total", "datatype": "FP32", "dims": [1]},
        {"name": "count", "datatype": "INT64", "dims": [1]},
    ],
    "axes": [{"name": "events", "cap": 8}],
    "max_rows": 16,
    "max_tokens": 64,
    "warmup": [{"rows": 1, "lengths": {"events": 8}}, {"rows": 8, "lengths": {"events": 4}}],
}
EXTRAS: list[dict[str, Any]] = [
    {"name": "why", "datatype": "FP32", "dims": [2], "labels": ["amounts", "events"], "costs_rows": 2}
]
LENGTHS = np.array([1, 3, 8, 0, 5], np.int64)


def write(folder: Path, broken: str = "pass", explained: str = "pass", **described: Any) -> Path:
    """`folder/toy/1`, whose forward pass and extras have one statement more. Its golden rows are its own answers."""
    directory = folder / "toy" / "1"
    directory.mkdir(parents=True)
    (directory / "model.py").write_text(SOURCE.replace("BROKEN", broken).replace("EXPLAINED", explained))
    module = runpy.run_path(str(directory / "model.py"))["build"]({})
    amounts = np.random.default_rng(0).normal(size=int(LENGTHS.sum())).astype(np.float32)
    writing.write(directory, module, DESCRIBED | described, {"amount": amounts}, {"events": LENGTHS})
    return directory


def respell(directory: Path, **changes: Any) -> None:
    """Change fields of spec.yaml; a field that becomes `...` is taken out."""
    path = directory / "spec.yaml"
    tree = yaml.safe_load(path.read_text()) | changes
    path.write_text(yaml.safe_dump({name: value for name, value in tree.items() if value is not ...}))


def regild(directory: Path, **changes: Any) -> None:
    """Change arrays of golden.npz, `input__amount` for `input.amount`; one that becomes None is taken out."""
    path = directory / "golden.npz"
    with np.load(path) as arrays:
        tree = {**arrays} | {name.replace("__", "."): values for name, values in changes.items()}
    np.savez(path, **{name: values for name, values in tree.items() if values is not None})
