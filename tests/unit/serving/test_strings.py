"""Strings, bfloat16 and unsigned integers through the runner, the laws and the golden rows: as a module sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import words

from headrace.errors import BrokenContract
from headrace.serving import rows as made
from headrace.serving import weights
from headrace.serving.check import Status, check
from headrace.serving.runner import FAILED, NOT_FINITE, OK, Computed, Runner, Unpacked
from headrace_models import spec as disk
from headrace_models import strings

pytestmark = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")

TEXTS = [b"card", b"", b"a", b"abcdefgh"]


def batch(spec: disk.ModelSpec, texts: list[bytes], factors: list[float]) -> Any:
    """Two tags a row."""
    tags = [tag for text in texts for tag in (text[: words.TAG], text[:1])]
    return made.packed(
        Unpacked(
            {
                "name": strings.encode(texts, words.NAME),
                "tags": strings.encode(tags, words.TAG),
                "factor": words.bits(factors),
                "count": np.arange(len(texts), dtype="<u2")[:, None],
            },
            {"tags": np.full(len(texts), 2, np.int64)},
            len(texts),
        ),
        spec,
    )


def computed(tmp_path: Path, texts: list[bytes], factors: list[float], broken: str = "pass") -> Computed:
    directory = words.write(tmp_path)
    if broken != "pass":
        words.break_it(directory, broken)
    spec = disk.read_spec(directory)
    return Runner(disk.load_module(spec, directory), spec, "cpu").run(batch(spec, texts, factors), 0.0)


def test_a_module_reads_and_writes_strings_and_bfloat16(tmp_path: Path) -> None:
    found = computed(tmp_path, TEXTS, [0.5, 1, 2, 3])
    said = np.frombuffer(found.columns[0], np.uint8).reshape(4, -1)
    halves = torch.from_numpy(np.frombuffer(found.columns[1], "<u2").copy()).view(torch.bfloat16)

    assert found.status == bytes([OK] * 4)
    assert strings.decode(said) == [text[::-1] for text in TEXTS]
    assert halves.tolist() == [0.5 * (4 + 4 + 1), 0, 2 * (1 + 1 + 1), 3 * (8 + 5 + 1)]
    assert np.frombuffer(found.columns[2], "<u2").tolist() == [1, 2, 3, 4]


def test_a_bfloat16_that_is_not_finite_marks_its_row_alone(tmp_path: Path) -> None:
    found = computed(tmp_path, [b"ab", b"ab", b"ab"], [1, float("inf"), 2])

    assert list(found.status) == [OK, NOT_FINITE, OK]
    assert np.frombuffer(found.columns[1], "<u2").tolist()[1] == 0


def test_a_string_that_says_it_is_longer_than_it_may_be_fails_its_row_alone(tmp_path: Path) -> None:
    found = computed(tmp_path, [b"ab", b"ab"], [1, 2], "said[1, 0] = 9")

    assert list(found.status) == [OK, FAILED]
    assert strings.decode(np.frombuffer(found.columns[0], np.uint8).reshape(2, -1)) == [b"ba", b""]


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ("half = half.float()", "output 'half' is float32, the spec says BF16"),
        ("said = said.int()", "output 'said' is int32, the spec says BYTES"),
        ("said = said[:, :-1]", "output 'said' has shape"),
    ],
)
def test_what_would_be_cast_to_nonsense_breaks_the_contract(tmp_path: Path, broken: str, sentence: str) -> None:
    with pytest.raises(BrokenContract, match=sentence):
        computed(tmp_path, TEXTS, [1, 2, 3, 4], broken)


def test_a_model_of_strings_holds_every_law(tmp_path: Path) -> None:
    results = {result.name: result for result in check(words.write(tmp_path), "cpu")}

    assert {name: result.status for name, result in results.items()} == dict.fromkeys(results, Status.OK)
    assert len(results) == 14


@pytest.mark.parametrize(
    ("broken", "name", "sentence"),
    [
        ("said[:, 4] = len(said)", "golden rows", "output 'said' of golden row"),
        ("said[0, 0] = 9", "golden rows", "output 'said' has a string of more than max_bytes, 8"),
        ("half = half + 1", "golden rows", "output 'half' of golden row"),
    ],
)
def test_a_model_whose_strings_are_wrong_is_found_out(tmp_path: Path, broken: str, name: str, sentence: str) -> None:
    directory = words.write(tmp_path)
    words.break_it(directory, broken)

    results = {result.name: result for result in check(directory, "cpu")}

    assert results[name].status is Status.FAILED
    assert sentence in results[name].text


@pytest.mark.parametrize(
    ("array", "values", "sentence"),
    [
        (
            "input.name",
            np.zeros((4, 8), np.uint8),
            "input.name has shape [4, 8], but the spec and the lengths say [4, 12]",
        ),
        ("input.name", np.full((4, 12), 9, np.uint8), "input.name has a string of more than max_bytes, 8"),
        ("input.factor", np.ones((4, 1), np.float32), "input.factor is float32, the spec says BF16"),
        ("input.factor", np.full((4, 1), 0x7F80, "<u2"), "input.factor has a value that is not finite"),
    ],
)
def test_golden_rows_that_no_gateway_would_let_through_prove_nothing(
    tmp_path: Path, array: str, values: np.ndarray, sentence: str
) -> None:
    directory = words.write(tmp_path)
    words.regild(directory, array, values)

    with pytest.raises(disk.SpecError) as refused:
        disk.golden(disk.read_spec(directory), directory)

    assert sentence in str(refused.value)


def test_control_and_gateways_hear_of_the_width(tmp_path: Path) -> None:
    wire = weights.wire_spec(weights.read(words.write(tmp_path)))

    assert {tensor.name: tensor.max_bytes for tensor in (*wire.inputs, *wire.outputs)} == {
        "name": 8, "tags": 5, "factor": 0, "count": 0, "said": 8, "half": 0, "next": 0,
    }  # fmt: skip
