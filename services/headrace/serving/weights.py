"""Models on disk, found and checked, and their specs in the words of the core and of the wire.

The only place where the three views of a spec meet. Never unpickles; wrong means StartupError, in one line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.core.routing import is_version
from headrace.errors import StartupError
from headrace.v1 import control_pb2
from headrace_models import spec as disk

if TYPE_CHECKING:
    import torch  # who looks for models need not load it


@dataclass(frozen=True, slots=True)
class FoundModel:
    """One version in a directory of models."""

    directory: Path
    spec: disk.ModelSpec

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def version(self) -> str:
        return str(self.spec.version)


def shipped_models() -> Path:
    """The models that come with the repository."""
    return Path(disk.__file__).resolve().parents[1] / "repository"


def discover(directories: Sequence[Path], only: Sequence[str] = ()) -> list[FoundModel]:
    """Every `<model>/<version>/spec.yaml` below these directories, or those of the models in `only`.

    A model that is not asked for is not read: what is wrong with it is in nobody's way. Raises: StartupError.
    """
    paths = [path for directory in directories for path in _specs(directory)]
    if not paths:
        raise StartupError(f"{', '.join(map(str, directories))}: no model (expected <model>/<version>/spec.yaml)")
    names = sorted({path.parent.parent.name for path in paths})
    if unknown := [name for name in only if name not in names]:
        raise StartupError(f"only: there is no model '{unknown[0]}' (there is {', '.join(names)})")
    found: dict[tuple[str, int], FoundModel] = {}
    for path in paths:
        if not only or path.parent.parent.name in only:
            _add(found, read(path.parent))
    return list(found.values())


def listed(directories: Sequence[Path]) -> dict[tuple[str, str], Path]:
    """(model, version) → directory of every version that lies below these, without a look into any.

    Raises: StartupError when one lies there twice.
    """
    found: dict[tuple[str, str], Path] = {}
    for path in (path.parent for directory in directories for path in _specs(directory)):
        name, version = path.parent.name, path.name
        if not is_version(version):
            continue
        if before := found.get((name, version)):
            raise StartupError(f"{path}: {name}/{version} is in {before} already")
        found[name, version] = path
    return found


def _specs(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise StartupError(f"{directory}: no such directory of models")
    return sorted(directory.glob("*/*/spec.yaml"))


def _add(found: dict[tuple[str, int], FoundModel], model: FoundModel) -> None:
    if before := found.get((model.name, model.spec.version)):
        raise StartupError(f"{model.directory}: {model.name}/{model.version} is in {before.directory} already")
    found[model.name, model.spec.version] = model


def read(directory: Path) -> FoundModel:
    """The version in this directory, its digest verified. Raises: StartupError."""
    try:
        # Not resolved: where a version is a link into a store, its own name is what the spec must match.
        return FoundModel(directory.absolute(), disk.load_spec(directory))
    except disk.SpecError as error:
        raise StartupError(str(error)) from error


def load(model: FoundModel, device: str) -> torch.nn.Module:
    """The module with its weights on its device, its golden rows verified. Raises: StartupError."""
    try:
        module = place(disk.load_module(model.spec, model.directory), model.directory, device)
        disk.verify_golden(module, model.spec, model.directory, device=device)
    except disk.SpecError as error:
        raise StartupError(str(error)) from error
    return module


def place(module: torch.nn.Module, directory: Path, device: str) -> torch.nn.Module:
    """The module on its device, in the precision it chooses there. Raises: StartupError."""
    try:
        module = module.to(device)
        if device == "cuda" and hasattr(module, "on_cuda"):
            module.on_cuda()  # type: ignore[operator]
    except Exception as error:  # the module is foreign code, and there may be no such device
        raise StartupError(f"{directory}: cannot be put on {device}: {disk.one_line(error)}") from error
    return module


def wire_spec(model: FoundModel) -> control_pb2.ModelSpec:
    """The spec as control hands it to gateways."""
    spec = model.spec
    return control_pb2.ModelSpec(
        name=spec.name,
        version=model.version,
        digest=spec.digest,
        inputs=_tensors(spec.inputs),
        outputs=_tensors(spec.outputs),
        axes=[control_pb2.Axis(name=a.name, cap=a.cap, required=a.required) for a in spec.axes],
        max_rows=spec.max_rows,
        max_tokens=spec.max_tokens,
        platform="pytorch",
        signal=_signal(spec.signal),
        extras=_tensors(spec.extras),
    )


def _signal(signal: disk.Signal | None) -> control_pb2.SignalSpec | None:
    if signal is None:
        return None
    return control_pb2.SignalSpec(name=signal.name, calibration_version=signal.calibration_version)


def _tensors(tensors: Iterable[disk.TensorSpec]) -> list[control_pb2.TensorSpec]:
    return [
        control_pb2.TensorSpec(
            name=tensor.name,
            datatype=tensor.datatype,
            dims=tensor.dims,
            axis=tensor.axis or "",
            finite=tensor.finite,
            bounded_below=tensor.minimum is not None,
            minimum=tensor.minimum or 0,
            ordered=tensor.ordered,
            optional=tensor.optional,
            labels=tensor.labels,
            costs_rows=tensor.costs_rows,
            max_bytes=tensor.max_bytes,
        )
        for tensor in tensors
    ]
