"""A model version on disk: `spec.yaml`, read and checked. Imports torch only where a module is built.

Read by the replica before it serves anything, and by training, which writes what this file reads.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import yaml

if TYPE_CHECKING:
    import torch

DATATYPES: Final[dict[str, str]] = {
    "BOOL": "?",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "<u1",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""Datatypes a model may declare → numpy's name, little-endian."""
GOLDEN_TOLERANCE: Final = 1e-5
"""How far an output may be from its golden value, in fp32."""


class SpecError(ValueError):
    """What is wrong with a model directory, in one sentence that names the file and the field."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of one row: no batch dimension; -1 first where it is ragged."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    axis: str | None = None
    finite: bool = False
    minimum: int | None = None
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """A ragged axis that several inputs share."""

    name: str
    cap: int
    required: bool = False


@dataclass(frozen=True, slots=True)
class WarmUp:
    """One batch shape that runs before the model is ready."""

    rows: int
    lengths: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Signal:
    """What the outputs `p` and `score` say about a payment: a model that has one is asked through RiskService too."""

    name: str
    calibration_version: str = ""
    """Of the map from raw output to `p` and `score`; thresholds of callers hang on it."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything `spec.yaml` says."""

    name: str
    version: int
    factory: str
    """`package.module:function`, or `model.py:function` for a file beside the spec."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: str
    digest: str
    """`sha256:` and the hex digest of the weights file."""
    golden: str
    axes: tuple[Axis, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    max_rows: int = 64
    max_tokens: int = 8192
    warmup: tuple[WarmUp, ...] = (WarmUp(1),)
    description: str = ""
    signal: Signal | None = None


def load_spec(directory: Path) -> ModelSpec:
    """Read and check `directory/spec.yaml` and the digest of its weights. Raises: SpecError."""
    path = directory / "spec.yaml"
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise SpecError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    spec = _parse(tree, path)
    verify_digest(spec, directory)
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
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def load_module(spec: ModelSpec, directory: Path) -> torch.nn.Module:
    """The model with its weights, in evaluation mode. Never unpickles. Raises: SpecError."""
    from safetensors import SafetensorError  # noqa: PLC0415  reading a spec must not need torch
    from safetensors.torch import load_file  # noqa: PLC0415

    path = directory / spec.weights
    try:
        module: torch.nn.Module = _factory(spec, directory)(dict(spec.config))
    except Exception as error:  # a factory is foreign code: whatever it raises is the spec's fault
        raise SpecError(f"{directory}: the factory {spec.factory} failed: {error}") from error
    try:
        module.load_state_dict(load_file(path), strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise SpecError(f"{path}: the weights do not fit {spec.factory}: {' '.join(str(error).split())}") from error
    return module.eval()


def golden(spec: ModelSpec, directory: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The golden rows: inputs, lengths and the outputs they must give, as numpy arrays. Raises: SpecError."""
    path = directory / spec.golden
    try:
        with np.load(path, allow_pickle=False) as arrays:
            groups = {kind: _group(arrays, f"{kind}.") for kind in ("input", "lengths", "output")}
    except (OSError, ValueError) as error:
        raise SpecError(f"{path}: cannot be read ({error})") from error
    for kind, expected in (("input", spec.inputs), ("lengths", spec.axes), ("output", spec.outputs)):
        if missing := {named.name for named in expected} - groups[kind].keys():
            raise SpecError(f"{path}: has no {kind}.{min(missing)}")
    return groups["input"], groups["lengths"], groups["output"]


def verify_golden(module: torch.nn.Module, spec: ModelSpec, directory: Path, *, device: str = "cpu") -> None:
    """Run the golden rows. Raises: SpecError when an output is not what it was when the model was made."""
    import torch  # noqa: PLC0415

    inputs, lengths, expected = golden(spec, directory)
    with torch.inference_mode():
        answers = module(
            {name: torch.from_numpy(values).to(device) for name, values in inputs.items()},
            {name: torch.from_numpy(values) for name, values in lengths.items()},
        )
    tolerance = GOLDEN_TOLERANCE if device == "cpu" else 5e-3
    for tensor in spec.outputs:
        found = answers[tensor.name].cpu().numpy()
        if found.shape[1:] != tensor.dims or found.shape != expected[tensor.name].shape:
            raise SpecError(
                f"{directory}: output '{tensor.name}' has shape {found.shape}, the spec says {tensor.dims} a row"
            )
        distance = float(np.abs(found.astype(np.float64) - expected[tensor.name]).max(initial=0))
        if not distance <= (tolerance if found.dtype.kind == "f" else 1):
            raise SpecError(f"{directory}: output '{tensor.name}' is {distance:g} away from its golden value")


# Parsing --------------------------------------------------------------------------------------------------------------


def _parse(tree: Any, path: Path) -> ModelSpec:
    values = _fields(tree, ModelSpec, str(path))
    values["inputs"] = _tensors(values.get("inputs"), f"{path}: inputs")
    values["outputs"] = _tensors(values.get("outputs"), f"{path}: outputs")
    values["axes"] = tuple(
        Axis(**_fields(axis, Axis, f"{path}: axes.{i}")) for i, axis in enumerate(values.get("axes") or ())
    )
    values["warmup"] = tuple(
        WarmUp(**_fields(shape, WarmUp, f"{path}: warmup.{i}"))
        for i, shape in enumerate(values.get("warmup") or ({"rows": 1},))
    )
    if values.get("signal") is not None:
        values["signal"] = _signal(values["signal"], f"{path}: signal")
    spec = ModelSpec(**values)
    _check(spec, path)
    return spec


def _fields(tree: Any, kind: type, where: str) -> dict[str, Any]:
    """The mapping `tree` as arguments of a dataclass; every key known, every needed key there."""
    if not isinstance(tree, dict):
        raise SpecError(f"{where}: expected a mapping, got {type(tree).__name__}")
    known = {f.name: f for f in fields(kind)}
    if unknown := sorted(set(tree) - set(known)):
        raise SpecError(f"{where}: unknown key '{unknown[0]}'")
    for name, field_ in known.items():
        if name not in tree and field_.default is MISSING and field_.default_factory is MISSING:
            raise SpecError(f"{where}: '{name}' is missing")
    return dict(tree)


def _tensors(trees: Any, where: str) -> tuple[TensorSpec, ...]:
    if not isinstance(trees, list) or not trees:
        raise SpecError(f"{where}: expected a list of tensors")
    found = []
    for i, tree in enumerate(trees):
        values = _fields(tree, TensorSpec, f"{where}.{i}")
        if values["datatype"] not in DATATYPES:
            raise SpecError(f"{where}.{i}: datatype '{values['datatype']}' is not one of {', '.join(DATATYPES)}")
        values["dims"] = tuple(values["dims"])
        found.append(TensorSpec(**values))
    return tuple(found)


def _signal(tree: Any, where: str) -> Signal:
    signal = Signal(**_fields(tree, Signal, where))
    for name in ("name", "calibration_version"):
        if not isinstance(getattr(signal, name), str):  # 012345678901 without quotes is a number to YAML
            raise SpecError(f"{where}.{name}: expected text, got {type(getattr(signal, name)).__name__}: quote it")
    if not signal.name:
        raise SpecError(f"{where}.name: is empty")
    return signal


def _check(spec: ModelSpec, path: Path) -> None:
    if not isinstance(spec.version, int) or spec.version < 1:
        raise SpecError(f"{path}: version must be an integer >= 1, got {spec.version!r}")
    if path.parent.name != str(spec.version) or path.parent.parent.name != spec.name:
        raise SpecError(f"{path}: describes {spec.name}/{spec.version}, but lies in another directory")
    axes = {axis.name for axis in spec.axes}
    for tensor in (*spec.inputs, *spec.outputs):
        if (tensor.axis is not None) != (-1 in tensor.dims) or -1 in tensor.dims[1:]:
            raise SpecError(f"{path}: tensor '{tensor.name}' needs -1 first, and only there, where it names an axis")
        if tensor.axis is not None and tensor.axis not in axes:
            raise SpecError(f"{path}: tensor '{tensor.name}' names the axis '{tensor.axis}', which is not declared")
    if any(tensor.axis for tensor in spec.outputs):
        raise SpecError(f"{path}: outputs have fixed dims")


def _factory(spec: ModelSpec, directory: Path) -> Callable[[dict[str, Any]], Any]:
    source, _, name = spec.factory.partition(":")
    if source.endswith(".py"):
        location = importlib.util.spec_from_file_location(f"_model_{spec.name}_{spec.version}", directory / source)
        if location is None or location.loader is None:
            raise SpecError(f"{directory / source}: cannot be loaded")
        module = importlib.util.module_from_spec(location)
        location.loader.exec_module(module)
    else:
        module = importlib.import_module(source)
    found: Callable[[dict[str, Any]], Any] = getattr(module, name)
    return found


def _group(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
