"""Extras: computed for the rows that ask, and nobody else's answer is another for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import toy
from torch import Tensor, nn

from headrace.errors import BrokenContract, ModelFailed, StartupError
from headrace.serving import weights
from headrace.serving.check import Status, check
from headrace.serving.runner import Runner
from headrace.serving.warmup import warm_up
from headrace.v1 import replica_pb2
from headrace_models import spec as disk

pytestmark = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")

OK, EXPIRED, NOT_FINITE, FAILED = 0, 1, 2, 3
SPEC = disk.ModelSpec(
    name="sum",
    version=1,
    factory="",
    inputs=(disk.TensorSpec("events", "FP32", (-1,), axis="events"), disk.TensorSpec("key", "FP32", (1,))),
    outputs=(disk.TensorSpec("sum", "FP32", (1,)),),
    extras=(
        disk.TensorSpec("why", "FP32", (2,), costs_rows=2),
        disk.TensorSpec("place", "INT64", (1,), costs_rows=1),
    ),
    weights="",
    digest="",
    golden="",
    axes=(disk.Axis("events", 8),),
    max_tokens=12,
)


class Sum(nn.Module):
    """The sum of a row's events, and why: that sum, and the row's key. Keys do what the tests say of them."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[float]] = []

    def forward(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> dict[str, Tensor]:
        if (inputs["key"] == 13).any():
            raise RuntimeError("unlucky")
        return {"sum": self._sums(inputs, lengths)}

    def extras(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> dict[str, Tensor]:
        key = inputs["key"]
        self.asked.append(key[:, 0].tolist())
        if (key == 14).any():
            raise RuntimeError("inexplicable")
        why = torch.cat([self._sums(inputs, lengths), torch.where(key == 7, torch.inf, key)], 1)
        place = torch.arange(len(key))[:, None]
        if (key == 21).any():
            return {"why": why[:1], "place": place}
        return {"why": why[:, :1] if (key == 22).any() else why, "place": place}

    def _sums(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> Tensor:
        length = lengths["events"]
        row = torch.repeat_interleave(torch.arange(len(length)), length)
        return torch.zeros(len(length), 1).index_add(0, row, inputs["events"][:, None])


def batch(keys: list[float], wants: list[int], **changes: Any) -> replica_pb2.PackedBatch:
    """A row a key, of two events that are 1."""
    values: dict[str, Any] = {
        "rows": len(keys),
        "columns": [np.ones(2 * len(keys), "<f4").tobytes(), np.array(keys, "<f4").tobytes()],
        "lengths": [np.full(len(keys), 2, "<i4").tobytes()],
        "remaining_s": np.full(len(keys), np.inf, "<f8").tobytes(),
        "wants_extras": bytes(wants),
    }
    return replica_pb2.PackedBatch(**(values | changes))


class Told:
    """What became of a batch."""

    def __init__(self, message: replica_pb2.PackedBatch, waited_s: float = 0.0, spec: disk.ModelSpec = SPEC) -> None:
        module = Sum()
        computed = Runner(module, spec, "cpu").run(message, waited_s)
        self.asked = module.asked
        self.columns = computed.columns
        self.status = list(computed.status)
        self.padded_tokens = computed.padded_tokens
        self.sums = np.frombuffer(computed.columns[0], "<f4").tolist()

    @property
    def why(self) -> list[list[float]]:
        return np.frombuffer(self.columns[1], "<f4").reshape(-1, 2).tolist()


# One batch ------------------------------------------------------------------------------------------------------------


def test_only_rows_that_ask_get_extras_and_the_others_zeros() -> None:
    told = Told(batch([1, 2, 3], [1, 0, 1]))

    assert told.sums == [2, 2, 2]
    assert told.why == [[2, 1], [0, 0], [2, 3]]
    assert np.frombuffer(told.columns[2], "<i8").tolist() == [0, 0, 1]
    assert told.asked == [[1, 3]]


@pytest.mark.parametrize("wants", [[], [0, 0]])
def test_where_nobody_asks_no_extra_is_computed(wants: list[int]) -> None:
    told = Told(batch([1, 14], wants))

    assert told.asked == []
    assert told.sums == [2, 2]
    assert len(told.columns) == (3 if wants else 1)


def test_a_row_out_of_time_is_not_explained_even_if_it_asked() -> None:
    remaining_s = np.array([1.0, 0.01, 1.0], "<f8").tobytes()
    told = Told(batch([1, 14, 3], [0, 1, 1], remaining_s=remaining_s), waited_s=0.5)
    over = Told(batch([1, 14, 3], [0, 1, 0], remaining_s=remaining_s), waited_s=0.5)
    all_over = Told(batch([1, 14, 3], [1, 1, 1], remaining_s=remaining_s), waited_s=2)

    assert (told.asked, told.why, told.status) == ([[3]], [[0, 0], [0, 0], [2, 3]], [OK, EXPIRED, OK])
    assert (over.asked, over.why, over.status) == ([], [[0, 0]] * 3, [OK, EXPIRED, OK])
    assert (all_over.asked, all_over.why, all_over.status) == ([], [[0, 0]] * 3, [EXPIRED] * 3)


@pytest.mark.parametrize("key", [13, 14], ids=["forward", "extras"])
def test_a_row_that_makes_the_module_raise_fails_alone(key: float) -> None:
    told = Told(batch([1, key, 3, 4], [1, 1, 0, 1]))

    assert told.status == [OK, FAILED, OK, OK]
    assert told.sums == [2, 0, 2, 2]
    assert told.why == [[2, 1], [0, 0], [0, 0], [2, 4]]


def test_a_row_whose_extras_raise_alone_is_a_failure_of_the_model() -> None:
    with pytest.raises(ModelFailed, match="raised RuntimeError"):
        Told(batch([14], [1]))


def test_an_extra_that_is_not_finite_is_never_passed_on() -> None:
    told = Told(batch([7, 7, 1], [1, 0, 1]))

    assert told.status == [NOT_FINITE, OK, OK]
    assert told.sums == [0, 2, 2]
    assert told.why == [[0, 0], [0, 0], [2, 1]]


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (batch([1, 2], [1]), "it is not said of every row whether it wants extras"),
        (batch([1, 2], [1, 1, 1]), "it is not said of every row whether it wants extras"),
        (batch([21, 2], [1, 1]), r"output 'why' has shape \[1, 2\], the spec says \[2, 2\]"),
        (batch([22, 2], [1, 1]), r"output 'why' has shape \[2, 1\], the spec says \[2, 2\]"),
    ],
    ids=["too short", "too long", "a row too few", "broadcastable"],
)
def test_extras_that_do_not_fit_break_the_contract(message: replica_pb2.PackedBatch, sentence: str) -> None:
    with pytest.raises(BrokenContract, match=sentence):
        Told(message)


def test_a_model_without_extras_cannot_be_asked_for_them() -> None:
    plain = disk.ModelSpec("sum", 1, "", SPEC.inputs, SPEC.outputs, "", "", "", SPEC.axes)

    with pytest.raises(BrokenContract, match="the model has no extras"):
        Told(batch([1], [1]), spec=plain)


def test_what_asks_for_more_than_a_batch_may_hold_is_explained_in_parts() -> None:
    """A row of two tokens costs six, a batch may have twelve: memory stays bounded however many rows ask."""
    told = Told(batch([1, 2, 3, 4, 5], [1] * 5))

    assert sorted(len(part) for part in told.asked) == [1, 2, 2]
    assert told.why == [[2, key] for key in (1, 2, 3, 4, 5)]


def test_tokens_of_extras_are_counted_as_gateways_count_them() -> None:
    assert Told(batch([1, 2, 3], [])).padded_tokens == 6
    assert Told(batch([1, 2, 3], [0, 1, 1])).padded_tokens == 6 + 2 * 2 * SPEC.extras_rows


# Warm-up and loading --------------------------------------------------------------------------------------------------


def test_the_warm_up_asks_for_extras_once_for_each_shape(tmp_path: Path) -> None:
    """As many rows as fit into a batch: one of one, four of eight, each worth two rows more."""
    model = weights.read(toy.write(tmp_path, extras=toy.EXTRAS))
    module: Any = weights.load(model, "cpu")

    warm_up(Runner(module, model.spec, "cpu"), model.spec)

    assert module.asked == [1, 4]
    assert module.calls == 1 + 2 * 4  # the golden rows; three runs of each shape, and one that asks


def test_a_shape_of_rows_without_events_asks_too(tmp_path: Path) -> None:
    shapes = [{"rows": 1, "lengths": {"events": 0}}, {"rows": 16, "lengths": {"events": 0}}]
    model = weights.read(toy.write(tmp_path, extras=toy.EXTRAS, warmup=shapes))
    module: Any = weights.load(model, "cpu")

    warm_up(Runner(module, model.spec, "cpu"), model.spec)

    assert module.asked == [1, 16]


@pytest.mark.parametrize(
    ("explained", "complaint"),
    [
        ("raise ValueError('no')", "ValueError: no"),
        ("why = why[:, :1]", "output 'why' has shape [1, 1], the spec says [1, 2]"),
        ("why = why.double()", "output 'why' is float64, the spec says FP32"),
        ("why = why.squeeze(0)", "output 'why' has shape [2], the spec says [1, 2]"),
    ],
)
def test_extras_that_fail_in_the_warm_up_stop_the_start(tmp_path: Path, explained: str, complaint: str) -> None:
    model = weights.read(toy.write(tmp_path, explained=explained, extras=toy.EXTRAS))

    with pytest.raises(StartupError) as refused:
        warm_up(Runner(weights.load(model, "cpu"), model.spec, "cpu"), model.spec)

    assert str(refused.value) == f"toy/1: warm-up with 1 rows, 1 of them asking for extras, failed: {complaint}"


def test_a_spec_that_declares_extras_which_the_module_has_not_is_refused_in_one_line(tmp_path: Path) -> None:
    directory = toy.write(tmp_path, extras=toy.EXTRAS)
    source = directory / "model.py"
    source.write_text(source.read_text().replace("def extras", "def reasons"))

    sentence = f"{directory}: spec.yaml declares extras, but the Toy of model.py:build has no method extras"
    with pytest.raises(StartupError) as refused:
        weights.load(weights.read(directory), "cpu")
    last = list(check(directory, "cpu"))[-1]

    assert str(refused.value) == sentence
    assert (last.name, last.status, last.text) == ("weights", Status.FAILED, sentence)


# The law --------------------------------------------------------------------------------------------------------------


def test_sound_extras_are_measured_and_a_model_without_any_says_so(tmp_path: Path) -> None:
    found = list(check(toy.write(tmp_path / "with", extras=toy.EXTRAS), "cpu"))[-1]
    none = list(check(toy.write(tmp_path / "without"), "cpu"))[-1]

    assert (found.name, found.status) == ("extras", Status.OK)
    assert "all and some rows asking: at most 0 away (tolerance 1e-05); 2 rows of 16 tokens in " in found.text
    assert found.figures["output"] == "why"
    assert (none.name, none.status, none.text) == ("extras", Status.OK, "none are declared")


LAWS = {
    "another width": (
        "why = why[:, :1]",
        {"extras", "warm-up"},
        "output 'why' has shape [5, 1], the spec says [5, 2]",
    ),
    "another datatype": (
        "why = why.double()",
        {"extras", "warm-up"},
        "output 'why' is float64, the spec says FP32",
    ),
    "not of every row": (
        "why = why[: max(1, len(why) - 1)]",
        {"extras", "warm-up"},
        "output 'why' has shape [4, 2], the spec says [5, 2]",
    ),
    "none at all": ("return {}", {"extras", "warm-up"}, "the module raised KeyError: 'why' on 5 rows of 17 tokens"),
    "depends on who else asks": (
        "why = why - why.mean(0) if len(why) > 3 else why",
        {"extras"},
        "from its answer alone in a batch of which 5 of 5 rows ask for it (tolerance 1e-05)",
    ),
    "depends on its place": (
        "why[2:] += len(why) == 3",
        {"extras"},
        "output 'why' of golden row 4 is",
    ),
    "divides by the length": (
        "why = why / count[:, None]",
        {"extras"},
        "output 'why' is not finite: golden rows, 5 of them asking for extras",
    ),
    "refuses a row without events": (
        "assert count.all() or len(count) > 1, 'nothing there'",
        {"extras"},
        "the module raised AssertionError: nothing there on 1 row of 0 tokens",
    ),
    "fails on as many as may ask": (
        "assert len(count) != 2, 'two'",
        {"extras"},
        "the module raised AssertionError: two on 2 rows of 16 tokens",
    ),
    "changes the very score": (
        "self.scale.data.add_(0.5)",
        {"extras"},
        "away once extras were asked for",
    ),
}


@pytest.mark.parametrize(("explained", "failing", "sentence"), LAWS.values(), ids=LAWS.keys())
def test_extras_that_break_the_law_are_found(tmp_path: Path, explained: str, failing: set[str], sentence: str) -> None:
    results = list(check(toy.write(tmp_path, explained=explained, extras=toy.EXTRAS), "cpu"))

    failed = {result.name: result.text for result in results if result.status is Status.FAILED}
    assert set(failed) == failing
    assert sentence in failed["extras"]
    assert all("\n" not in text for text in failed.values())


def test_an_extra_may_be_off_by_what_its_spec_allows(tmp_path: Path) -> None:
    extras = [{**toy.EXTRAS[0], "tolerance": 0.2}]

    results = list(check(toy.write(tmp_path, explained="why = why + 0.1 * (len(why) > 1)", extras=extras), "cpu"))

    assert {result.status for result in results} == {Status.OK}
