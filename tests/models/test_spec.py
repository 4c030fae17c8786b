"""A directory that can't be served says so in one line, and nothing is unpickled on the way."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace_models import artefact, evaluate, spec


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    target = tmp_path / "fraud-tx" / "1"
    shutil.copytree(evaluate.SHIPPED, target)
    return target


def _edit(old: str, new: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / "spec.yaml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return change


def _truncate(directory: Path) -> None:
    path = directory / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


BROKEN = [
    (lambda d: (d / "spec.yaml").unlink(), "spec.yaml: No such file or directory"),
    (lambda d: (d / "weights.safetensors").unlink(), "weights.safetensors: No such file or directory"),
    (_truncate, "digest is sha256:.* but spec.yaml says sha256:"),
    (_edit("max_rows", "max_row"), "unknown key 'max_row'"),
    (_edit("golden: golden.npz", ""), "'golden' is missing"),
    (_edit("FP32", "FP31"), "datatype 'FP31' is not one of"),
    (_edit("name: fraud-tx", "name: other"), "describes other/1, but lies in another directory"),
    (_edit("axis: card", "axis: car"), "names the axis 'car', which is not declared"),
    (_edit("signal:", "signal:\n  colour: red"), "signal: unknown key 'colour'"),
    (_edit("  name: fraud\n", ""), "signal: 'name' is missing"),
    (_edit("  name: fraud\n", "  name: ''\n"), "signal.name: is empty"),
    (_edit("349f58fa4ea1", "349058041"), "signal.calibration_version: expected text, got int: quote it"),
    (_edit("signal:\n  name: fraud\n  calibration_version: 349f58fa4ea1", "signal: fraud"), "expected a mapping"),
]


@pytest.mark.parametrize(("damage", "sentence"), BROKEN)
def test_what_is_wrong_is_said_in_one_line(copy: Path, damage: Callable[[Path], None], sentence: str) -> None:
    damage(copy)

    with pytest.raises(spec.SpecError, match=sentence) as caught:
        spec.load_spec(copy)

    assert "\n" not in str(caught.value)


def test_a_model_needs_no_signal(copy: Path) -> None:
    _edit("signal:\n  name: fraud\n  calibration_version: 349f58fa4ea1\n", "")(copy)

    assert spec.load_spec(copy).signal is None


def test_the_shipped_calibration_version_is_that_of_the_shipped_weights() -> None:
    version = artefact.calibration_version(evaluate.SHIPPED / "weights.safetensors")

    assert spec.load_spec(evaluate.SHIPPED).signal == spec.Signal("fraud", version)


def test_weights_that_do_not_fit_the_factory_are_refused(copy: Path) -> None:
    _edit("config: {}", "config: {width: 32}")(copy)

    with pytest.raises(spec.SpecError, match="the weights do not fit"):
        spec.load_module(spec.load_spec(copy), copy)


def test_a_spec_that_lies_about_a_shape_fails_its_golden_rows(copy: Path) -> None:
    _edit("- name: p\n  datatype: FP32\n  dims:\n  - 1\n", "- name: p\n  datatype: FP32\n  dims:\n  - 2\n")(copy)
    found = spec.load_spec(copy)

    with pytest.raises(spec.SpecError, match="output 'p' has shape"):
        spec.verify_golden(spec.load_module(found, copy), found, copy)
