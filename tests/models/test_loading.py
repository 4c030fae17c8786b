"""What lies beside a spec, weights, code, vocabulary and golden rows, is what it says, or nothing loads."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests import toy

from headrace_models import spec, vocabulary, wire
from headrace_models.training.evaluate import REPOSITORY

SHIPPED = REPOSITORY / "fraud-tx" / "1"

AMOUNT, TOTAL, COUNT = (*toy.DESCRIBED["inputs"], *toy.DESCRIBED["outputs"])


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return toy.write(tmp_path)


def load(directory: Path) -> torch.nn.Module:
    found = spec.load_spec(directory)
    module = spec.load_module(found, directory)
    spec.verify_golden(module, found, directory)
    return module


def refused(directory: Path) -> str:
    with pytest.raises(spec.SpecError) as caught:
        load(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Bomb:
    """Unpickling it fails the test."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return pytest.fail, ("something was unpickled",)


def weigh(**tensors: torch.Tensor) -> Callable[[Path], None]:
    return lambda directory: rewrite(directory, lambda path: save_file(tensors, path))


def rewrite(directory: Path, change: Callable[[Path], Any]) -> None:
    """Other weights, with the digest they need to get past the first door."""
    change(directory / "weights.safetensors")
    toy.respell(directory, digest=spec.digest(directory / "weights.safetensors"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


WEIGHTS = [
    (lambda d: truncate(d / "weights.safetensors"), "digest is sha256:"),
    (lambda d: toy.respell(d, digest="sha256:00"), "but spec.yaml says sha256:00"),
    (lambda d: (d / "weights.safetensors").unlink(), "weights.safetensors: No such file or directory"),
    (lambda d: rewrite(d, truncate), "weights.safetensors: is not a whole file of safetensors"),
    (lambda d: rewrite(d, lambda p: p.write_bytes(pickle.dumps(Bomb()))), "is not a whole file of safetensors"),
    (weigh(), "the weights do not fit model.py:build: 'scale' is missing"),
    (weigh(a=torch.ones(1), b=torch.ones(1), scale=torch.ones(1)), "'a' is a tensor the module has not (and 1 more)"),
    (weigh(scale=torch.ones(2)), "the weights do not fit model.py:build: Error(s) in loading state_dict"),
]
CODE = [
    (lambda d: (d / "model.py").unlink(), "model.py:build cannot be imported: FileNotFoundError"),
    (lambda d: (d / "model.py").write_text("import nowhere"), "cannot be imported: ModuleNotFoundError"),
    (lambda d: (d / "model.py").write_text("build = 1"), "the factory model.py:build is not there, or is no function"),
    (lambda d: (d / "model.py").write_text("def build(config): return 1"), "made a int, not an nn.Module"),
    (lambda d: (d / "model.py").write_text("def build(config): raise KeyError('own')"), "failed: KeyError: 'own'"),
    (lambda d: toy.respell(d, factory="no.such.place:build"), "cannot be imported: ModuleNotFoundError"),
    (lambda d: toy.respell(d, factory="headrace_models.wire:build"), "is not there, or is no function"),
]
GOLDEN = [
    (lambda d: (d / "golden.npz").unlink(), "golden.npz: cannot be read (No such file or directory)"),
    (lambda d: truncate(d / "golden.npz"), "golden.npz: cannot be read ("),
    (lambda d: (d / "golden.npz").write_bytes(b""), "golden.npz: cannot be read ("),
    (lambda d: (d / "golden.npz").write_bytes(pickle.dumps(Bomb())), "golden.npz: cannot be read ("),
    (lambda d: np.save((d / "golden.npz").open("wb"), np.ones(3)), "golden.npz: cannot be read ("),
    (
        lambda d: toy.regild(d, input__amount=np.array([Bomb()])),
        "golden.npz: cannot be read (ValueError: Object arrays",
    ),
    (lambda d: toy.regild(d, input__amount=None), "golden.npz: has no input.amount"),
    (lambda d: toy.regild(d, output__total=None), "golden.npz: has no output.total"),
    (lambda d: toy.regild(d, input__amounts=np.ones(3)), "golden.npz: holds input.amounts, unknown to spec.yaml"),
    (lambda d: toy.regild(d, lengths__events=np.ones(5, np.int32)), "lengths.events is int32, the spec says INT64"),
    (lambda d: toy.regild(d, lengths__events=np.array([9, 2, 2, 2, 2])), "length that is not from 0 to the cap, 8"),
    (lambda d: toy.regild(d, lengths__events=np.array([-1, 8, 8, 1, 1])), "length that is not from 0 to the cap, 8"),
    (lambda d: toy.regild(d, lengths__events=np.ones(5, np.int64)), "input.amount has shape [17], but the spec"),
    (
        lambda d: toy.regild(d, output__total=np.ones((0, 1), "f4")),
        "has 0 rows, but a batch has from 1 to max_rows, 16",
    ),
    (lambda d: toy.respell(d, max_rows=4, warmup=...), "has 5 rows, but a batch has from 1 to max_rows, 4"),
    (lambda d: toy.respell(d, max_tokens=16, warmup=...), "has 17 tokens, more than max_tokens, 16"),
    (lambda d: toy.respell(d, inputs=[AMOUNT | {"minimum": 0}]), "has a value below 0, which the spec forbids"),
    (lambda d: toy.respell(d, inputs=[AMOUNT | {"ordered": True}]), "falls inside a row, which the spec forbids"),
    (lambda d: toy.regild(d, output__total=np.ones((5, 1), "f4")), "away from its golden value (tolerance 1e-05)"),
    (lambda d: toy.regild(d, output__total=np.full((5, 1), np.nan, "f4")), "is nan away from its golden value"),
    (lambda d: toy.regild(d, output__count=toy.LENGTHS[:, None] + 1), "output 'count' of golden row 0 is 1 away"),
]
LIES = [
    (lambda d: toy.respell(d, inputs=[AMOUNT | {"dims": [-1, 2]}]), "input.amount has shape [17], but the spec and"),
    (lambda d: toy.respell(d, inputs=[AMOUNT | {"datatype": "FP64"}]), "input.amount is float32, the spec says FP64"),
    (lambda d: toy.respell(d, outputs=[TOTAL | {"dims": [2]}, COUNT]), "output.total has shape [5, 1], but the spec"),
    (lambda d: toy.respell(d, outputs=[TOTAL, COUNT | {"datatype": "INT32"}]), "output.count is int64, the spec says"),
    (
        lambda d: (
            toy.respell(d, outputs=[TOTAL | {"dims": [2]}, COUNT]),
            toy.regild(d, output__total=np.ones((5, 2), "f4")),
        ),
        "output 'total' has shape [5, 1], the spec says [5, 2]",
    ),
    (
        lambda d: (
            toy.respell(d, outputs=[TOTAL, COUNT | {"datatype": "INT32"}]),
            toy.regild(d, output__count=toy.LENGTHS[:, None].astype("i4")),
        ),
        "output 'count' is int64, the spec says INT32",
    ),
    (
        lambda d: (
            toy.respell(d, outputs=[TOTAL, COUNT, TOTAL | {"name": "mean"}]),
            toy.regild(d, output__mean=np.ones((5, 1), "f4")),
        ),
        "the module gives no output 'mean'",
    ),
    (
        lambda d: (
            toy.respell(d, inputs=[AMOUNT | {"name": "sum"}]),
            toy.regild(d, input__sum=np.ones(17, "f4"), input__amount=None),
        ),
        "the module fails on its golden rows: KeyError: 'amount'",
    ),
]


@pytest.mark.parametrize(("damage", "sentence"), [*WEIGHTS, *CODE, *GOLDEN, *LIES], ids=lambda value: str(value)[:70])
def test_a_damaged_directory_is_refused_in_one_line(
    directory: Path, damage: Callable[[Path], Any], sentence: str
) -> None:
    damage(directory)

    said = refused(directory)

    assert sentence in said
    assert said.startswith(str(directory))


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("def vocabulary(): return 'sha256:new'", "trained with vocabulary sha256:old, but the code has sha256:new"),
        ("", "trained with vocabulary sha256:old, but the code has none"),
        ("def vocabulary(): raise OSError('no table')", "vocabulary() of model.py:build failed: OSError: no table"),
    ],
    ids=["another", "none", "raises"],
)
def test_weights_of_another_vocabulary_are_refused(directory: Path, code: str, sentence: str) -> None:
    (directory / "model.py").write_text(f"{toy.SOURCE.replace('BROKEN', 'pass')}\n{code}\n")
    toy.respell(directory, vocabulary="sha256:old")

    assert sentence in refused(directory)


def test_a_vocabulary_that_is_the_codes_loads(directory: Path) -> None:
    source = toy.SOURCE.replace("BROKEN", "pass")
    (directory / "model.py").write_text(f"{source}\ndef vocabulary():\n    return 'sha256:old'\n")
    toy.respell(directory, vocabulary="sha256:old")

    assert not load(directory).training


def test_a_channel_that_changes_places_makes_the_shipped_weights_worthless(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(SHIPPED, tmp_path / "fraud-tx" / "1"))
    monkeypatch.setattr(wire, "CHANNELS", ("", "contactless", "chip", *wire.CHANNELS[3:]))

    assert vocabulary.of_events() in refused(directory)


def test_code_may_hold_dataclasses_with_postponed_annotations(tmp_path: Path) -> None:
    directory = toy.write(tmp_path)
    source = (directory / "model.py").read_text()
    head = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass C:\n    n: int = 1\n"
    )
    (directory / "model.py").write_text(head + source)

    assert not load(directory).training


def test_integers_are_exact_beyond_what_a_double_holds(tmp_path: Path) -> None:
    directory = toy.write(tmp_path, "count = count + 2**60")
    load(directory)
    toy.regild(directory, output__count=toy.LENGTHS[:, None] + 2**60 + 1)

    assert "output 'count' of golden row 0 is 1 away" in refused(directory)


def test_large_floats_may_differ_by_a_rounding_of_their_size(tmp_path: Path) -> None:
    directory = toy.write(tmp_path, "total = total * 0 + 1e6")
    toy.regild(directory, output__total=np.full((5, 1), 1e6 + 1, "f4"))
    load(directory)
    toy.regild(directory, output__total=np.full((5, 1), 1e6 + 20, "f4"))

    assert "output 'total' of golden row 0 is 1.99996e-05 away" in refused(directory)
