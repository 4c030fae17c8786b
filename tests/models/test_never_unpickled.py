"""Loading a model runs no pickle: neither of what lies beside its spec, nor by what its loading imports."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import toy

from headrace.errors import StartupError
from headrace.serving import weights
from headrace_models import spec
from headrace_models.training.evaluate import REPOSITORY

ROOT = Path(__file__).resolve().parents[2]
ROOMS = (ROOT / "services" / "headrace", ROOT / "models" / "headrace_models")
TRAINING = ROOT / "models" / "headrace_models" / "training"
"""Reads its own checkpoints, and loads no model that is served."""
PICKLES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
LOADERS = {"torch.load", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "np.load", "numpy.load"}


class Bomb:
    """Unpickling it fails the test."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return pytest.fail, ("something was unpickled",)


def as_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"scale": Bomb()}))


def as_torch(path: Path) -> None:
    torch.save({"scale": torch.ones(1), "bomb": Bomb()}, path)


def as_old_torch(path: Path) -> None:
    torch.save({"scale": torch.ones(1), "bomb": Bomb()}, path, _use_new_zipfile_serialization=False)


def as_numpy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([Bomb()]), allow_pickle=True)


KINDS = [as_pickle, as_torch, as_old_torch, as_numpy]


@pytest.mark.parametrize("write", KINDS)
@pytest.mark.parametrize("name", ["weights.safetensors", "golden.npz"])
def test_a_file_that_is_a_pickle_is_refused_in_a_sentence(
    tmp_path: Path, write: Callable[[Path], None], name: str
) -> None:
    directory = toy.write(tmp_path)
    write(directory / name)
    if name.startswith("weights"):
        toy.respell(directory, digest=spec.digest(directory / name))

    with pytest.raises(StartupError) as caught:
        weights.load(weights.read(directory), "cpu")

    assert str(caught.value).startswith(str(directory / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["weights.bin", "weights.pt", "weights.pkl"])
@pytest.mark.parametrize("write", KINDS[:3])
def test_a_pickle_under_another_name_is_refused_too(tmp_path: Path, write: Callable[[Path], None], name: str) -> None:
    directory = toy.write(tmp_path)
    write(directory / name)
    toy.respell(directory, weights=name, digest=spec.digest(directory / name))

    with pytest.raises(StartupError) as caught:
        weights.load(weights.read(directory), "cpu")

    assert str(directory) in str(caught.value)


def test_the_shipped_models_load_where_nothing_can_be_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        pytest.fail("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)

    loaded = [weights.load(model, "cpu") for model in weights.discover([REPOSITORY])]

    assert len(loaded) >= 2


def sources() -> Iterator[Path]:
    for room in ROOMS:
        yield from (path for path in room.rglob("*.py") if TRAINING not in path.parents)


def unpicklers(tree: ast.AST) -> Iterator[str]:
    """What could unpickle: imports of what does, and calls of loaders that may."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.partition(".")[0] in PICKLES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PICKLES:
            yield str(node.module)
        elif isinstance(node, ast.Call) and _may(node):
            yield ast.unparse(node)


def _may(call: ast.Call) -> bool:
    """A loader that is not told, in so many words, to unpickle nothing."""
    name = ast.unparse(call.func)
    refuses = any(word.arg == "allow_pickle" and ast.unparse(word.value) == "False" for word in call.keywords)
    if name in ("np.load", "numpy.load"):
        return not refuses
    return name in LOADERS or any(word.arg == "allow_pickle" and not refuses for word in call.keywords)


def test_nothing_that_serves_imports_what_unpickles() -> None:
    found = {str(path.relative_to(ROOT)): list(unpicklers(ast.parse(path.read_text()))) for path in sources()}

    assert len(found) > 150, "the rooms have been found"
    assert {path: what for path, what in found.items() if what} == {}


@pytest.mark.parametrize(
    ("source", "many"),
    [
        ("import pickle", 1),
        ("from cloudpickle import loads", 1),
        ("import torch\ntorch.load(path)", 1),
        ("torch.load(path, weights_only=True)", 1),
        ("np.load(path)", 1),
        ("np.load(path, allow_pickle=True)", 1),
        ("np.load(path, allow_pickle=False)", 0),
        ("safetensors.torch.load_file(path)", 0),
    ],
)
def test_what_the_check_would_find(source: str, many: int) -> None:
    assert len(list(unpicklers(ast.parse(source)))) == many
