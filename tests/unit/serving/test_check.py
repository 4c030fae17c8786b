"""Every check passes on a model that is sound and fails on one that breaks just what it looks at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests import toy

from headrace.errors import StartupError
from headrace.serving import weights
from headrace.serving.check import Result, Status, check, find
from headrace_models import spec as disk

pytestmark = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")

ORDER = [
    *("spec", "digest", "weights", "golden rows", "declared shapes", "padding", "batch-mates", "limits"),
    *("empty rows", "warm-up", "finite", "inputs untouched", "determinism", "extras"),
]


def named(results: list[Result], status: Status) -> dict[str, str]:
    return {result.name: result.text for result in results if result.status is status}


def test_a_sound_model_passes_every_check_in_order_and_says_what_was_measured(tmp_path: Path) -> None:
    results = list(check(toy.write(tmp_path), "cpu"))

    assert [result.name for result in results] == ORDER
    assert {result.status for result in results} == {Status.OK}
    figures = {result.name: result.figures for result in results}
    assert figures["golden rows"] == {"rows": 5, "worst": 0.0, "tolerance": 1e-5}
    assert figures["limits"]["longest"]["rows"] == 8
    assert figures["limits"]["widest"]["tokens"] == 64
    assert set(figures["warm-up"]) == {"1×8", "8×4"}


def test_what_ships_passes(root: Path) -> None:
    shipped = [weights.shipped_models(), root / "benchmarks" / "repository", root / "tests" / "fixtures" / "models"]
    versions = [version for directory in shipped for version in find(directory)]

    assert {version.parent.name for version in versions} >= {
        "fraud-tx", "w1-encoder", "w2-ragged", "sum-difference", "simple_string",
    }  # fmt: skip
    for version in versions:
        assert named(list(check(version, "cpu")), Status.FAILED) == {}


LAWS = {
    "squeezes a batch of one": (
        "total = total.squeeze(0)",
        {"declared shapes", "padding", "batch-mates", "warm-up", "finite", "empty rows"},
        "declared shapes: output 'total' has shape [1], the spec says [1, 1]",
    ),
    "answers a batch of one in another datatype": (
        "count = count if len(count) > 1 else count.int()",
        {"declared shapes", "padding", "batch-mates", "warm-up", "finite", "empty rows"},
        "declared shapes: output 'count' is int32, the spec says INT64",
    ),
    "lets the padding leak": (
        "total = total + 0.1 * count.max()",
        {"padding", "batch-mates", "empty rows"},
        "padding: output 'total' of golden row 0 is 0.7 away from its answer alone beside the longest row it may meet",
    ),
    "depends on its batch-mates": (
        "total = total - total.mean() if len(total) > 2 else total",
        {"batch-mates"},
        "away from its answer alone in a batch of 5 (together)",
    ),
    "depends on its place": (
        "total[2:] += 1",
        {"batch-mates"},
        "batch-mates: output 'total' of golden row",
    ),
    "miscounts by one": (
        "count = count + (len(count) > 2)",
        {"batch-mates"},
        "batch-mates: output 'count' of golden row 0 is 1 away",
    ),
    "fails on a full batch": (
        "assert len(amount) < 60, 'too large'",
        {"limits", "finite"},
        "limits: the module raised AssertionError: too large on 8 rows of 64 tokens",
    ),
    "cannot count its tokens": (
        "self.padded_tokens = lambda lengths: 1 // 0",
        {"limits"},
        "limits: the module raised ZeroDivisionError",
    ),
    "divides by the length": (
        "total = total / count if len(total) < 5 else total",
        {"padding", "batch-mates", "empty rows", "finite"},
        "empty rows: output 'total' is not finite: a row without an event on events",
    ),
    "refuses a row without events": (
        "assert count.all() or len(count) > 1",
        {"padding", "batch-mates", "empty rows", "finite"},
        "empty rows: the module raised AssertionError:",
    ),
    "raises on zeros": (
        "assert not len(amount) or amount.any(), 'nothing there'",
        {"warm-up"},
        "warm-up: toy/1: warm-up with 1 rows failed: AssertionError: nothing there",
    ),
    "answers NaN where a batch is full": (
        "total = torch.where(torch.tensor(len(amount) > 60), torch.nan, total)",
        {"finite"},
        "finite: output 'total' is not finite: 8 rows of 64 tokens",
    ),
    "writes to its input": (
        "amount.mul_(2)",
        {"inputs untouched"},
        "inputs untouched: the module writes to input.amount",
    ),
    "writes to its lengths": (
        "lengths['events'].zero_()",
        {"inputs untouched"},
        "inputs untouched: the module writes to lengths.events",
    ),
    "is not deterministic": (
        "total = total + 2e-7 * (self.calls % 2)",
        {"determinism"},
        "determinism: output 'total' of the same batch is",
    ),
}


@pytest.mark.parametrize(("broken", "failing", "sentence"), LAWS.values(), ids=LAWS.keys())
def test_a_module_that_breaks_a_law_is_found(tmp_path: Path, broken: str, failing: set[str], sentence: str) -> None:
    results = list(check(toy.write(tmp_path, broken), "cpu"))

    failed = named(results, Status.FAILED)
    assert set(failed) == failing
    assert any(sentence in f"{name}: {text}" for name, text in failed.items())
    assert all("\n" not in text for text in failed.values())
    assert [result.name for result in results] == ORDER


def test_an_integer_may_be_off_by_what_its_spec_allows_and_by_no_more(tmp_path: Path) -> None:
    outputs = [toy.DESCRIBED["outputs"][0], {**toy.DESCRIBED["outputs"][1], "tolerance": 1}]
    edge = "count = count + (len(count) > 2)"

    tolerant = list(check(toy.write(tmp_path / "one", edge, outputs=outputs), "cpu"))
    strict = list(check(toy.write(tmp_path / "two", edge + " * 2", outputs=outputs), "cpu"))

    assert named(tolerant, Status.FAILED) == {}
    assert set(named(strict, Status.FAILED)) == {"batch-mates"}


@pytest.mark.parametrize(
    ("broken", "warmup", "sentence"),
    [
        ("time.sleep(0.2 * (2 < self.calls < 5))", ..., "1×8 got slower after the first run"),
        ("pass", [{"rows": 1, "lengths": {"events": 3}}], "no shape has 'events' at its cap, 8"),
        ("pass", [{"rows": 2, "lengths": {"events": 8}}], "no shape has a single row"),
    ],
    ids=["slower", "cap", "single row"],
)
def test_a_warm_up_that_proves_little_is_a_warning(tmp_path: Path, broken: str, warmup: object, sentence: str) -> None:
    described = {} if warmup is ... else {"warmup": warmup}
    results = list(check(toy.write(tmp_path, broken, **described), "cpu"))

    assert named(results, Status.FAILED) == {}
    assert sentence in named(results, Status.WARNING)["warm-up"]


def surplus_weights(directory: Path) -> None:
    save_file({"scale": torch.ones(1), "shift": torch.ones(1)}, directory / "weights.safetensors")
    toy.respell(directory, digest=disk.digest(directory / "weights.safetensors"))


@pytest.mark.parametrize(
    ("spoil", "last", "sentence"),
    [
        (lambda d: toy.respell(d, max_rows=0), "spec", "spec.yaml: max_rows: must be from 1"),
        (lambda d: toy.respell(d, digest="sha256:0"), "digest", "weights.safetensors: digest is sha256:"),
        (surplus_weights, "weights", "'shift' is a tensor the module has not"),
        (lambda d: (d / "golden.npz").unlink(), "golden rows", "golden.npz: cannot be read (No such file"),
    ],
    ids=["spec", "digest", "weights", "golden"],
)
def test_what_cannot_be_opened_is_the_last_line(
    tmp_path: Path, spoil: Callable[[Path], None], last: str, sentence: str
) -> None:
    directory = toy.write(tmp_path)
    spoil(directory)

    results = list(check(directory, "cpu"))

    assert [result.name for result in results] == ORDER[: ORDER.index(last) + 1]
    assert list(named(results, Status.FAILED)) == [last]
    assert sentence in results[-1].text
    assert results[-1].text.startswith(str(directory))


def test_wrong_golden_values_do_not_hide_what_the_laws_say(tmp_path: Path) -> None:
    directory = toy.write(tmp_path)
    toy.regild(directory, output__total=np.ones((5, 1), np.float32))

    results = list(check(directory, "cpu"))

    assert [result.name for result in results] == ORDER
    assert list(named(results, Status.FAILED)) == ["golden rows"]


def test_no_code_of_a_model_runs_before_its_files_are_right(tmp_path: Path) -> None:
    directory = toy.write(tmp_path)
    (directory / "model.py").write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()")
    toy.respell(directory, digest="sha256:0")

    list(check(directory, "cpu"))

    assert not (directory / "ran").exists()


def test_a_device_that_is_not_there_is_said(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    results = list(check(toy.write(tmp_path), "cuda"))

    assert "cannot be put on cuda" in results[-1].text


def test_versions_are_found_from_any_height(tmp_path: Path) -> None:
    directory = toy.write(tmp_path)

    assert find(directory) == find(directory.parent) == find(tmp_path) == [directory]
    with pytest.raises(StartupError, match="no model"):
        find(directory.parents[2] / "elsewhere")


def test_rows_that_meet_nobody_have_nothing_to_agree_on(tmp_path: Path) -> None:
    described = {"max_rows": 5, "max_tokens": 17, "axes": [{"name": "events", "cap": 17, "required": False}]}
    results = list(check(toy.write(tmp_path, warmup=[{"rows": 1, "lengths": {"events": 17}}], **described), "cpu"))

    assert named(results, Status.FAILED) == {}
