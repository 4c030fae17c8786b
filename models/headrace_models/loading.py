"""The module that a spec names, with its weights in it: the code is found, asked for its vocabulary, and filled.

The code is foreign: whatever it raises becomes one sentence. Weights are safetensors and never unpickled.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from headrace_models.schema import ModelSpec, SpecError, one_line

if TYPE_CHECKING:
    import torch


def load_module(spec: ModelSpec, directory: Path) -> torch.nn.Module:
    """The model with its weights, in evaluation mode. Raises: SpecError."""
    code = _code(spec, directory)
    _verify_vocabulary(code, spec, directory)
    module = _build(code, spec, directory)
    _fill(module, spec, directory)
    return module.eval()


def _code(spec: ModelSpec, directory: Path) -> ModuleType:
    source = spec.factory.partition(":")[0]
    try:
        if source.endswith(".py"):
            return _run_file(directory / source, f"_model_{spec.name}_{spec.version}")
        return importlib.import_module(source)
    except Exception as error:  # the code is foreign
        raise SpecError(f"{directory}: the factory {spec.factory} cannot be imported: {one_line(error)}") from error


def _run_file(path: Path, name: str) -> ModuleType:
    location = importlib.util.spec_from_file_location(name, path)
    assert location is not None, "This is a bug."
    assert location.loader is not None, "This is a bug."
    module = importlib.util.module_from_spec(location)
    sys.modules[name] = module  # a dataclass with postponed annotations looks its own module up
    try:
        location.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _verify_vocabulary(code: ModuleType, spec: ModelSpec, directory: Path) -> None:
    """Raises: SpecError when the codes that the weights were trained on mean something else by now."""
    if not spec.vocabulary:
        return
    found = _call(getattr(code, "vocabulary", lambda: "none"), f"{directory}: vocabulary() of {spec.factory}")
    if found != spec.vocabulary:
        path = directory / "spec.yaml"
        raise SpecError(f"{path}: was trained with vocabulary {spec.vocabulary}, but the code has {found}")


def _build(code: ModuleType, spec: ModelSpec, directory: Path) -> torch.nn.Module:
    import torch  # noqa: PLC0415  reading a spec must not need torch

    factory = getattr(code, spec.factory.partition(":")[2], None)
    if not callable(factory):
        raise SpecError(f"{directory}: the factory {spec.factory} is not there, or is no function")
    module = _call(lambda: factory(dict(spec.config)), f"{directory}: the factory {spec.factory}")
    if not isinstance(module, torch.nn.Module):
        raise SpecError(f"{directory}: the factory {spec.factory} made a {type(module).__name__}, not an nn.Module")
    if spec.extras and not callable(getattr(module, "extras", None)):
        made = type(module).__name__
        raise SpecError(
            f"{directory}: spec.yaml declares extras, but the {made} of {spec.factory} has no method extras"
        )
    return module


def _call(function: Callable[[], Any], what: str) -> Any:
    try:
        return function()
    except Exception as error:  # the code is foreign
        raise SpecError(f"{what} failed: {one_line(error)}") from error


def _fill(module: torch.nn.Module, spec: ModelSpec, directory: Path) -> None:
    from safetensors.torch import load_file  # noqa: PLC0415  as torch above

    path = directory / spec.weights
    try:
        tensors = load_file(path)
    except Exception as error:  # a damaged file raises what it likes
        raise SpecError(f"{path}: is not a whole file of safetensors ({one_line(error)})") from error
    try:
        if wrong := _misfit(module.state_dict().keys(), tensors.keys()):
            raise SpecError(f"{path}: the weights do not fit {spec.factory}: {wrong}")
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise SpecError(f"{path}: the weights do not fit {spec.factory}: {' '.join(str(error).split())}") from error


def _misfit(wanted: set[str] | Any, there: set[str] | Any) -> str:
    """Which tensors lack or are too many: the first, and how many more."""
    for names, complaint in ((wanted - there, "is missing"), (there - wanted, "is a tensor the module has not")):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            return f"'{min(names)}' {complaint}{more}"
    return ""
