"""`headrace models check`: whether a version could be served, found out as a replica would, and told check by check.

Pure: yields results, prints nothing. Runs no code of a model whose spec or digest is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from headrace.errors import StartupError
from headrace.serving.laws import LAWS, Measured
from headrace.serving.runner import Unpacked, pick_device
from headrace.serving.trial import LawBroken, Trial, counted
from headrace.serving.weights import place
from headrace_models import spec as disk


class Status(StrEnum):
    """What became of a check. A warning does not keep a model from being served."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Result:
    """One check of one version."""

    name: str
    status: Status
    text: str
    """What was measured, or in one sentence what is wrong."""
    figures: Mapping[str, Any] = field(default_factory=dict)


def find(directory: Path) -> list[Path]:
    """The versions in a directory: itself, a model's, or a directory of models. Raises: StartupError."""
    for pattern in ("spec.yaml", "*/spec.yaml", "*/*/spec.yaml"):
        if found := sorted(directory.glob(pattern)):
            return [path.parent for path in found]
    raise StartupError(f"{directory}: no model (expected spec.yaml, or <model>/<version>/spec.yaml)")


def check(directory: Path, device: str = "auto") -> Iterator[Result]:
    """Every check of this version, in order. What the next ones need must pass; the laws are each told."""
    torch.set_num_threads(1)  # as a replica does by default: times, and the order of sums
    opening = _Opening(directory, pick_device(device))
    for name, step in opening.steps.items():
        yield (result := _judge(name, step))
        if result.status is Status.FAILED and opening.golden is None:
            return
    trial = opening.trial()
    # Before the other laws have warmed what it measures; told in its place.
    warm_up = _judge("warm-up", partial(LAWS["warm-up"], trial))
    for name, law in LAWS.items():
        yield warm_up if name == warm_up.name else _judge(name, partial(law, trial))


class _Opening:
    """A version on its way to a device; each step needs those before it."""

    def __init__(self, directory: Path, device: str) -> None:
        self._directory = directory
        self._device = device
        self._spec: disk.ModelSpec
        self._module: torch.nn.Module
        self.golden: Unpacked | None = None
        self.steps: Final[dict[str, Callable[[], Measured]]] = {
            "spec": self._read_spec,
            "digest": self._verify_digest,
            "weights": self._load,
            "golden rows": self._verify_golden,
        }

    def trial(self) -> Trial:
        assert self.golden is not None, "This is a bug."
        return Trial(self._module, self._spec, self._device, self.golden)

    def _read_spec(self) -> Measured:
        self._spec = spec = disk.read_spec(self._directory)
        there = f"{counted(len(spec.inputs), 'input')}, {counted(len(spec.outputs), 'output')}"
        axes = f", ragged in {', '.join(axis.name for axis in spec.axes)}" if spec.axes else ""
        return Measured(f"{there}{axes}; at most {spec.max_rows} rows, {spec.max_tokens} tokens")

    def _verify_digest(self) -> Measured:
        disk.verify_digest(self._spec, self._directory)
        return Measured(self._spec.digest[:19] + "…", {"digest": self._spec.digest})

    def _load(self) -> Measured:
        self._module = place(disk.load_module(self._spec, self._directory), self._directory, self._device)
        count = sum(parameter.numel() for parameter in self._module.parameters())
        known = f", vocabulary {self._spec.vocabulary[:19]}…" if self._spec.vocabulary else ""
        return Measured(f"{counted(count, 'parameter')} on {self._device}{known}", {"parameters": count})

    def _verify_golden(self) -> Measured:
        inputs, lengths, outputs = disk.golden(self._spec, self._directory)
        rows = len(next(iter(outputs.values())))
        self.golden = Unpacked(inputs, lengths, rows)
        worst = disk.verify_golden(self._module, self._spec, self._directory, device=self._device)
        text = f"{counted(rows, 'row')}, at most {worst.worst:.1g} away (tolerance {worst.tolerance:g})"
        return Measured(text, {"rows": rows, "worst": worst.worst, "tolerance": worst.tolerance})


def _judge(name: str, measure: Callable[[], Measured]) -> Result:
    try:
        measured = measure()
    except (disk.SpecError, StartupError, LawBroken) as error:
        return Result(name, Status.FAILED, str(error))
    except Exception as error:  # noqa: BLE001  a module is foreign code: whatever it raises is this check's failure
        return Result(name, Status.FAILED, f"the module raised {disk.one_line(error)}")
    if measured.warning:
        return Result(name, Status.WARNING, f"{measured.text}; {measured.warning}", measured.figures)
    return Result(name, Status.OK, measured.text, measured.figures)
