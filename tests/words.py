"""A small model of what numpy or torch have no plain type for: strings, ragged strings, bfloat16, unsigned integers."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from headrace_models import strings, writing

NAME: Final = 8
TAG: Final = 5
SOURCE = """
import torch
from torch import nn

from headrace_models import strings


class Words(nn.Module):
    def forward(self, inputs, lengths):
        name, tags, factor = inputs["name"], inputs["tags"], inputs["factor"]
        assert factor.dtype is torch.bfloat16
        texts = strings.decode(name)
        said = torch.from_numpy(strings.encode([text[::-1] for text in texts], 8)).to(name.device)
        row = torch.repeat_interleave(torch.arange(len(texts)), lengths["tags"])
        letters = torch.from_numpy(strings.lengths_of(tags.cpu().numpy()).astype("float32"))
        letters = torch.tensor([float(len(text)) for text in texts]).index_add(0, row, letters)
        half = factor * letters.to(factor)[:, None]
        following = (inputs["count"].int() + 1).to(torch.uint16)
        BROKEN
        return {"said": said, "half": half, "next": following}


def build(config):
    return Words()
"""
DESCRIBED: dict[str, Any] = {
    "factory": "model.py:build",
    "inputs": [
        {"name": "name", "datatype": "BYTES", "dims": [], "max_bytes": NAME},
        {"name": "tags", "datatype": "BYTES", "dims": [-1], "axis": "tags", "max_bytes": TAG},
        {"name": "factor", "datatype": "BF16", "dims": [1], "finite": True},
        {"name": "count", "datatype": "UINT16", "dims": [1], "optional": True},
    ],
    "outputs": [
        {"name": "said", "datatype": "BYTES", "dims": [], "max_bytes": NAME},
        {"name": "half", "datatype": "BF16", "dims": [1]},
        {"name": "next", "datatype": "UINT16", "dims": [1]},
    ],
    "axes": [{"name": "tags", "cap": 4}],
    "max_rows": 16,
    "max_tokens": 64,
    "warmup": [{"rows": 1, "lengths": {"tags": 4}}, {"rows": 16, "lengths": {"tags": 4}}],
}
TEXTS: Final = [b"fraud", b"", b"\xff\0x", b"abcdefgh"]
LENGTHS: Final = np.array([1, 0, 4, 2], np.int64)


def bits(numbers: list[float]) -> np.ndarray:
    """BF16 `[rows, 1]` as it lies outside of a module."""
    return torch.tensor(numbers)[:, None].bfloat16().view(torch.uint16).numpy()


def write(folder: Path) -> Path:
    """`folder/words/1`, with its own answers as golden rows."""
    directory = folder / "words" / "1"
    directory.mkdir(parents=True)
    (directory / "model.py").write_text(SOURCE.replace("BROKEN", "pass"))
    module = runpy.run_path(str(directory / "model.py"))["build"]({})
    inputs = {
        "name": strings.encode(TEXTS, NAME),
        "tags": strings.encode([b"a", b"", b"bc", b"\0", b"defgh", b"i", b"jk"], TAG),
        "factor": bits([0.5, 1, -2, 3.140625]),
        "count": np.array([[0], [1], [2], [65_534]], "<u2"),
    }
    writing.write(directory, module, DESCRIBED, inputs, {"tags": LENGTHS})
    return directory


def break_it(directory: Path, statement: str) -> None:
    """One statement more in its forward pass; its golden rows stay what they were."""
    (directory / "model.py").write_text(SOURCE.replace("BROKEN", statement))


def regild(directory: Path, name: str, values: np.ndarray) -> None:
    """Another array in its golden rows."""
    path = directory / "golden.npz"
    with np.load(path) as arrays:
        kept = dict(arrays)
    np.savez(path, **kept | {name: values})
