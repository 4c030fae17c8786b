"""A model version on disk, read and checked: the front door of everything that opens one.

Called by the replica before it serves anything, by `headrace models check`, and by training, which writes what is
read here. Imports torch only where a module is built, and never unpickles.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

from headrace_models.consistency import contradictions
from headrace_models.golden_rows import golden, misshapen, verify_golden
from headrace_models.loading import load_module
from headrace_models.schema import DATATYPES, Axis, ModelSpec, Signal, SpecError, TensorSpec, WarmUp, one_line, parse

__all__ = [
    "DATATYPES",
    "Axis",
    "ModelSpec",
    "Signal",
    "SpecError",
    "TensorSpec",
    "WarmUp",
    "digest",
    "golden",
    "load_module",
    "load_spec",
    "misshapen",
    "one_line",
    "read_spec",
    "verify_digest",
    "verify_golden",
]


def load_spec(directory: Path) -> ModelSpec:
    """Read and check `directory/spec.yaml` and the digest of its weights. Raises: SpecError."""
    spec = read_spec(directory)
    verify_digest(spec, directory)
    return spec


def read_spec(directory: Path) -> ModelSpec:
    """Read and check `directory/spec.yaml` alone. Raises: SpecError."""
    path = directory / "spec.yaml"
    try:
        spec = parse(_tree(path))
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error
    here = path.absolute()  # `.` has no name; a link keeps its own
    if (here.parent.parent.name, here.parent.name) != (spec.name, str(spec.version)):
        raise SpecError(f"{path}: describes {spec.name}/{spec.version}, but lies in another directory")
    if wrong := next(contradictions(spec), None):
        raise SpecError(f"{path}: {wrong}")
    return spec


def verify_digest(spec: ModelSpec, directory: Path) -> None:
    """Raises: SpecError when the weights are missing or are not the ones the spec was written for."""
    path = directory / spec.weights
    try:
        found = digest(path)
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}") from error
    if found != spec.digest:
        raise SpecError(f"{path}: digest is {found}, but spec.yaml says {spec.digest}")


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _tree(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(str(error.strerror)) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date that is none
        raise SpecError(f"not valid YAML ({' '.join(str(error).split())})") from error
