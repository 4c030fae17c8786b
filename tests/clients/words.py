"""A model of words: sixteen numbers as text and sixteen more in, their sums and differences as text out."""

from __future__ import annotations

import runpy
from pathlib import Path

from headrace_models import strings, writing

SOURCE = """
from torch import from_numpy, nn

from headrace_models import strings


class Words(nn.Module):
    def forward(self, inputs, lengths):
        left, right = ([int(word or 0) for word in strings.decode(inputs[name])] for name in ("INPUT0", "INPUT1"))
        outputs = {"OUTPUT0": [a + b for a, b in zip(left, right)], "OUTPUT1": [a - b for a, b in zip(left, right)]}
        return {name: from_numpy(strings.encode([b"%d" % n for n in all], 12, (16,))) for name, all in outputs.items()}


def build(config):
    return Words()
"""


def write(models: Path) -> None:
    """`models/sum-difference-words/1`."""
    directory = models / "sum-difference-words" / "1"
    directory.mkdir(parents=True)
    (directory / "model.py").write_text(SOURCE)
    tensor = {"datatype": "BYTES", "dims": [16], "max_bytes": 12}
    described = {
        "description": "The sums and the differences of numbers as words",
        "factory": "model.py:build",
        "inputs": [{"name": name, **tensor} for name in ("INPUT0", "INPUT1")],
        "outputs": [{"name": name, **tensor} for name in ("OUTPUT0", "OUTPUT1")],
        "max_rows": 16,
    }
    module = runpy.run_path(str(directory / "model.py"))["build"]({})
    inputs = {
        name: strings.encode([b"%d" % (step * place) for place in range(32)], 12, (16,))
        for name, step in (("INPUT0", 7), ("INPUT1", -3))
    }
    writing.write(directory, module, described, inputs, {})
