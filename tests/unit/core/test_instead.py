"""A question put to somebody else asks for the same, or is not put; a prior fits its model, or says why it does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headrace.core.inference import Inference
from headrace.core.instead import prior_row, restated
from headrace.core.tensors import Axis, ModelSpec, Signal, TensorSpec

EVENTS = TensorSpec("events", "FP32", (-1, 2), axis="events")
KEY = TensorSpec("key", "INT64", (1,))
P, SCORE = TensorSpec("p", "FP32", (1,)), TensorSpec("score", "INT32", (1,))
WHY = TensorSpec("why", "FP32", (2,), labels=("a", "b"), costs_rows=2)
SPEC = ModelSpec(
    "large", "2", "", (EVENTS, KEY), (P, SCORE), (Axis("events", 8),), signal=Signal("fraud", "c2"), extras=(WHY,)
)  # fmt: skip


def question(rows: int = 2, length: int = 6, **more: object) -> Inference:
    columns = [np.arange(rows * length * 2, dtype="<f4").tobytes(), np.arange(rows, dtype="<i8").tobytes()]
    asked = Inference(SPEC, columns, rows, (length,), rows * length, 1.0, outputs=(0, 1), compared=True)
    return replace(asked, **more)


def small(**changes: object) -> ModelSpec:
    """Its inputs and outputs stand the other way round."""
    turned = replace(SPEC, name="small", inputs=(KEY, EVENTS), outputs=(SCORE, P), extras=())
    return replace(turned, **changes)


def test_columns_and_outputs_come_in_the_others_order_and_nobody_compares_them() -> None:
    given = question()

    asked = restated(given, small(), 5.0)

    assert asked is not None
    assert asked.columns == [given.columns[1], given.columns[0]]
    assert [asked.spec.answers[place].name for place in asked.outputs] == ["p", "score"]
    assert (asked.deadline, asked.compared, given.compared) == (5.0, False, True)


def test_what_a_smaller_cap_cuts_off_is_told_with_what_was_cut_before() -> None:
    given = question(truncated={"events": 3})

    asked = restated(given, small(axes=(Axis("events", 4),)), 5.0)

    assert asked is not None
    assert asked.truncated == {"events": 5}
    assert asked.lengths == (4,)


def test_an_extra_is_asked_of_who_has_it_and_costs_what_it_costs_there() -> None:
    given = question(outputs=(2,), wants_extras=True)

    asked = restated(given, small(extras=(WHY,)), 5.0)

    assert asked is not None
    assert asked.wants_extras
    assert asked.tokens == 12 * 3
    assert restated(given, small(), 5.0) is None


@pytest.mark.parametrize(
    "other",
    [
        small(outputs=(SCORE,)),
        small(outputs=(SCORE, TensorSpec("p", "FP64", (1,)))),
        small(outputs=(SCORE, TensorSpec("p", "FP32", (2,)))),
        small(inputs=(KEY, EVENTS, TensorSpec("more", "FP32", (1,)))),
        small(inputs=(KEY, TensorSpec("events", "FP32", (-1, 3), axis="events"))),
        small(signal=Signal("churn", "c")),
        small(signal=None),
        small(max_rows=1),
    ],
    ids=["output", "datatype", "shape", "input", "entry", "signal", "no signal", "rows"],
)  # fmt: skip
def test_who_lacks_something_is_not_asked(other: ModelSpec) -> None:
    assert restated(question(), other, 5.0) is None


def test_an_output_that_nobody_asked_for_may_be_missing() -> None:
    assert restated(question(outputs=(1,)), small(outputs=(SCORE,)), 5.0) is not None


# Priors ---------------------------------------------------------------------------------------------------------------


def test_a_prior_is_one_row_of_every_output_in_their_order() -> None:
    p, score = prior_row(SPEC, {"score": 20, "p": 0.25})

    assert np.frombuffer(p, "<f4").tolist() == [0.25]
    assert np.frombuffer(score, "<i4").tolist() == [20]


def test_a_vector_is_given_as_one() -> None:
    spec = replace(SPEC, outputs=(TensorSpec("v", "FP16", (2, 1)),), signal=None)

    assert np.frombuffer(prior_row(spec, {"v": (1.5, -2)})[0], "<f2").tolist() == [1.5, -2]


@pytest.mark.parametrize(
    ("prior", "sentence"),
    [
        ({"p": 0.2}, "does not say output 'score'"),
        ({"p": 0.2, "score": 1, "x": 1}, "names 'x', which is no output"),
        ({"p": 1.2, "score": 1}, "from 0 to 1"),
        ({"p": 0.2, "score": 100}, "from 0 to 99"),
        ({"p": 0.2, "score": 20.5}, "is INT32"),
        ({"p": (0.2, 0.3), "score": 1}, "has 1 numbers a row, the prior 2"),
    ],
)
def test_a_prior_that_does_not_fit_says_why(prior: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        prior_row(SPEC, prior)


@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        (TensorSpec("p", "BYTES", (1,)), "BYTES"),
        (TensorSpec("p", "UINT8", (1,)), "UINT8"),
        (TensorSpec("p", "FP16", (1,)), "FP16"),
        (TensorSpec("p", "FP32", (-1,), axis="events"), "ragged"),
    ],
)
def test_a_prior_that_an_output_cannot_hold_is_refused(tensor: TensorSpec, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        prior_row(replace(SPEC, outputs=(tensor,), signal=None), {"p": 70_000})
