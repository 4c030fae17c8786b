"""A spec that can't be true says so in one line that names the file and the field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests import toy

from headrace_models import spec, vocabulary
from headrace_models.training.evaluate import REPOSITORY

SHIPPED = REPOSITORY / "fraud-tx" / "1"

AMOUNT, TOTAL, COUNT = (*toy.DESCRIBED["inputs"], *toy.DESCRIBED["outputs"])
EVENTS = toy.DESCRIBED["axes"][0]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return toy.write(tmp_path)


def inputs(**changes: Any) -> dict[str, Any]:
    return {"inputs": [AMOUNT | changes]}


def outputs(**changes: Any) -> dict[str, Any]:
    return {"outputs": [TOTAL | changes, COUNT]}


def axes(**changes: Any) -> dict[str, Any]:
    return {"axes": [EVENTS | changes]}


def warmup(**changes: Any) -> dict[str, Any]:
    return {"warmup": [{"rows": 1, "lengths": {"events": 8}} | changes]}


def signal(**changes: Any) -> dict[str, Any]:
    return {"signal": {"name": "fraud", "calibration_version": "1"} | changes}


def extra(**changes: Any) -> dict[str, Any]:
    why = {"name": "why", "datatype": "FP32", "dims": [2], "labels": ["a", "b"], "costs_rows": 3}
    return {"extras": [why | changes]}


TYPES = [
    ({"signal": "fraud"}, "signal: expected a mapping, got 'fraud'"),
    ({"signal": {}}, "signal: 'name' is missing"),
    (signal(colour="red"), "signal: unknown key 'colour'"),
    (signal(calibration_version=349058), "signal.calibration_version: expected a string, got 349058"),
    ({"version": "1"}, "version: expected an integer, got '1'"),
    ({"version": True}, "version: expected an integer, got True"),
    ({"version": 1.0}, "version: expected an integer, got 1.0"),
    ({"name": 7}, "name: expected a string, got 7"),
    ({"description": None}, "description: expected a string, got nothing"),
    ({"config": []}, "config: expected a mapping, got a list"),
    ({"inputs": {}}, "inputs: expected a list, got a mapping"),
    ({"outputs": ["total"]}, "outputs.0: expected a mapping, got 'total'"),
    (inputs(dims="x"), "inputs.0.dims: expected a list, got 'x'"),
    (inputs(dims=[-1, "2"]), "inputs.0.dims.1: expected an integer, got '2'"),
    (inputs(finite="yes"), "inputs.0.finite: expected true or false, got 'yes'"),
    (inputs(minimum="0"), "inputs.0.minimum: expected an integer, got '0'"),
    (inputs(axis=1), "inputs.0.axis: expected a string, got 1"),
    (outputs(tolerance="small"), "outputs.0.tolerance: expected a number, got 'small'"),
    (axes(cap="8"), "axes.0.cap: expected an integer, got '8'"),
    (axes(required=1), "axes.0.required: expected true or false, got 1"),
    (warmup(rows=None), "warmup.0.rows: expected an integer, got nothing"),
    (warmup(lengths={"events": "8"}), "warmup.0.lengths.events: expected an integer, got '8'"),
    (warmup(lengths={1: 8}), "warmup.0.lengths: expected a string, got 1"),
    (warmup(row=1), "warmup.0: unknown key 'row'"),
    ({"max_row": 1}, "unknown key 'max_row'"),
    ({"golden": ...}, "'golden' is missing"),
    ({"axes": [{"name": "events"}]}, "axes.0: 'cap' is missing"),
]
VALUES = [
    (signal(name=""), "signal.name: is empty"),
    (extra(finite=True), "extras.0: finite, minimum, ordered and optional are asked of inputs only"),
    (extra(tolerance=-1.0), "extras.0.tolerance: must be a number from 0, got -1.0"),
    (extra(costs_rows=0), "extras.0.costs_rows: must be from 1"),
    (extra(labels=["a"]), "extras.0.labels: 1 names for dims [2]"),
    (extra(name="total"), "extras.2.name: 'total' is there twice"),
    (extra(dims=[-1, 2], axis="events"), "extras.0.axis: outputs have fixed dims"),
    (inputs(labels=["a"]), "inputs.0: labels are asked of outputs and extras only"),
    (inputs(costs_rows=2), "inputs.0: costs_rows are asked of extras only"),
    (outputs(costs_rows=2), "outputs.0: costs_rows are asked of extras only"),
    (outputs(labels=["a", "b"]), "outputs.0.labels: 2 names for dims [1]"),
    (inputs(max_bytes=8), "inputs.0.max_bytes: is asked of BYTES only"),
    (
        inputs(datatype="BYTES"),
        "inputs.0.max_bytes: BYTES need the length of the longest string, from 1 to 65536, got 0",
    ),
    (inputs(datatype="BYTES", max_bytes=65_537), "inputs.0.max_bytes: BYTES need the length of the longest string"),
    (
        inputs(datatype="BYTES", max_bytes=8, minimum=0),
        "inputs.0.finite, minimum, ordered and tolerance are asked of num",
    ),
    (outputs(datatype="BYTES", max_bytes=8, labels=["a"]), "outputs.0.labels are names of numbers, not of BYTES"),
    (
        inputs(datatype="BYTES", max_bytes=65_536) | {"max_rows": 64},
        "inputs: the strings of 64 rows take 33556480 bytes, more than 16777216",
    ),
    (inputs(datatype="BF16", ordered=True), "inputs.0.ordered: tensor 'amount' is BF16"),
    (inputs(optional=True), "inputs.0.optional: tensor 'amount' is ragged"),
    (
        {"inputs": [AMOUNT, {"name": "no", "datatype": "INT32", "dims": [1], "minimum": 1, "optional": True}]},
        "inputs.1.optional: tensor 'no' is zeros where it is left out, and its minimum forbids them",
    ),
    (outputs(optional=True), "outputs.0: finite, minimum, ordered and optional are asked of inputs only"),
    ({"version": 0}, "describes toy/0, but lies in another directory"),
    ({"name": "other"}, "describes other/1, but lies in another directory"),
    ({"max_rows": 0}, "max_rows: must be from 1 to 2147483647, got 0"),
    ({"max_tokens": 2**31}, "max_tokens: must be from 1 to 2147483647, got 2147483648"),
    ({"max_tokens": 7}, "max_tokens: 7 is less than one row may have, 8"),
    ({"inputs": []}, "inputs: expected a list of tensors, got none"),
    ({"inputs": [AMOUNT, AMOUNT]}, "inputs.1.name: 'amount' is there twice"),
    ({"outputs": [TOTAL, COUNT, TOTAL]}, "outputs.2.name: 'total' is there twice"),
    ({"axes": [EVENTS, EVENTS]}, "axes.1.name: 'events' is there twice"),
    ({"axes": [EVENTS, {"name": "idle", "cap": 1}]}, "axes.1: no input has the axis 'idle'"),
    (inputs(name=""), "inputs.0.name: is empty"),
    (inputs(datatype="FP31"), "inputs.0.datatype: 'FP31' is not one of BOOL, INT8"),
    (inputs(axis="evens"), "inputs.0.axis: tensor 'amount' names the axis 'evens', which is not declared"),
    (inputs(axis=None), "inputs.0.dims: tensor 'amount' needs -1 first, and only there, where it names an axis"),
    (inputs(dims=[2]), "inputs.0.dims: tensor 'amount' needs -1 first"),
    (inputs(dims=[-1, 0]), "inputs.0.dims.1: must be from 1 to 2147483647, got 0"),
    (inputs(dims=[-1, -1]), "inputs.0.dims.1: must be from 1 to 2147483647, got -1"),
    (inputs(dims=[-1, 2], ordered=True), "inputs.0.ordered: tensor 'amount' is not one value an event"),
    (inputs(minimum=2**63), "inputs.0.minimum: 9223372036854775808 does not fit into 64 bits"),
    (inputs(tolerance=1), "inputs.0.tolerance: is asked of outputs only"),
    (outputs(dims=[-3]), "outputs.0.dims.0: must be from 1 to 2147483647, got -3"),
    (outputs(dims=[-1], axis="events"), "outputs.0.axis: outputs have fixed dims"),
    (outputs(finite=True), "outputs.0: finite, minimum, ordered and optional are asked of inputs only"),
    (outputs(tolerance=-1), "outputs.0.tolerance: must be a number from 0, got -1"),
    (axes(cap=0), "axes.0.cap: must be from 1 to 2147483647, got 0"),
    ({"warmup": []}, "warmup: expected at least one shape, got none"),
    (warmup(rows=17), "warmup.0.rows: must be from 1 to max_rows, 16, got 17"),
    (warmup(rows=0), "warmup.0.rows: must be from 1 to max_rows, 16, got 0"),
    (warmup(rows=9), "warmup.0.rows: 9 rows of these lengths are 72 tokens, more than max_tokens, 64"),
    (warmup(lengths={"events": 9}), "warmup.0.lengths.events: must be from 0 to the cap, 8, got 9"),
    (warmup(lengths={"event": 1}), "warmup.0.lengths: names the axis 'event', which is not declared"),
    (axes(required=True) | warmup(lengths={"events": 0}), "warmup.0.lengths.events: must be from 1 to the cap"),
]
PATHS = [
    *(
        ({field: name}, f"{field}: '{name}' is not the plain name of a file beside spec.yaml")
        for field in ("weights", "golden")
        for name in ("../x.npz", "/etc/passwd", "a/b", "..", "", ".hidden", "a b", "a\\b")
    ),
    ({"factory": "../model.py:build"}, "factory: '../model.py' is neither a module nor the plain name of a file"),
    ({"factory": "/tmp/model.py:build"}, "factory: '/tmp/model.py' is neither"),  # noqa: S108
    ({"factory": "os.path"}, "factory: 'os.path' is not of the form module:function"),
    ({"factory": "model.py:"}, "factory: 'model.py:' is not of the form module:function"),
]


@pytest.mark.parametrize(("changes", "sentence"), [*TYPES, *VALUES, *PATHS], ids=lambda value: str(value)[:60])
def test_what_is_wrong_is_said_in_one_line(directory: Path, changes: dict[str, Any], sentence: str) -> None:
    toy.respell(directory, **changes)

    with pytest.raises(spec.SpecError) as caught:
        spec.load_spec(directory)

    assert str(caught.value).startswith(f"{directory / 'spec.yaml'}: {sentence}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: path.unlink(), "No such file or directory"),
        (lambda path: path.write_text("name: [toy"), "not valid YAML"),
        (lambda path: path.write_text("name: 2026-13-45"), "not valid YAML"),
        (lambda path: path.write_bytes(b"name: \xff"), "not valid YAML"),
        (lambda path: path.write_text(""), "the file: expected a mapping, got nothing"),
        (lambda path: path.write_text("- toy"), "the file: expected a mapping, got a list"),
    ],
    ids=["missing", "torn", "date", "latin", "empty", "list"],
)
def test_a_file_that_is_no_spec_is_refused(directory: Path, damage: Callable[[Path], Any], sentence: str) -> None:
    damage(directory / "spec.yaml")

    with pytest.raises(spec.SpecError, match=sentence) as caught:
        spec.load_spec(directory)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_no_name_is_refused_even_where_the_directory_has_it(tmp_path: Path) -> None:
    directory = toy.write(tmp_path)
    odd = directory.parent.rename(tmp_path / "to y") / "1"
    toy.respell(odd, name="to y")

    with pytest.raises(spec.SpecError, match="name: 'to y' is not made of letters"):
        spec.load_spec(odd)


def test_a_directory_is_read_from_within(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory)

    assert spec.load_spec(Path()).name == "toy"


def test_defaults_are_what_a_short_spec_gets(directory: Path) -> None:
    toy.respell(directory, warmup=..., max_rows=..., max_tokens=...)
    found = spec.load_spec(directory)

    assert (found.max_rows, found.max_tokens, found.warmup) == (64, 8192, (spec.WarmUp(1),))


def test_the_shipped_models_were_trained_with_the_codes_vocabulary() -> None:
    for directory in REPOSITORY.glob("fraud-*/*"):
        assert spec.load_spec(directory).vocabulary == vocabulary.of_events()
    for directory in REPOSITORY.glob("acceptance/*"):
        assert spec.load_spec(directory).vocabulary == vocabulary.of_attempts()


def test_a_calibration_is_named_in_the_spec_by_its_numbers() -> None:
    found = spec.load_spec(SHIPPED)
    module = spec.load_module(found, SHIPPED)

    assert found.signal == spec.Signal("fraud", module.calibration.version())  # type: ignore[operator, union-attr]
