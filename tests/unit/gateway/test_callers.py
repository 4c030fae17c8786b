"""What callers got of a version: counted one by one, sorted by many, blamed on whoever is to blame."""

from __future__ import annotations

from collections import Counter

import pytest

from headrace.core.inference import Answer
from headrace.core.octaves import NEVER, bucket
from headrace.errors import (
    BackendLost,
    Cancelled,
    DeadlinePassed,
    HeadraceError,
    InvalidInference,
    ModelFailed,
    NotServing,
    Overloaded,
)
from headrace.gateway.callers import MANY, Callers, Got

ANSWER = Answer([], 1, 1, 0)


def test_those_who_were_answered_are_counted_by_how_long_they_waited() -> None:
    callers, waited_s = Callers(), [0.001 * number for number in range(1, 2 * MANY + 7)]
    for took_s in waited_s:
        callers.asked(ANSWER, took_s)

    assert callers.got == Got(len(waited_s), 0, Counter(bucket(int(took_s * 1e6)) for took_s in waited_s))


def test_answers_are_sorted_before_they_are_too_many() -> None:
    callers = Callers()
    for _ in range(3 * MANY):
        callers.asked(ANSWER, 0.004)
        assert len(callers._answered_s) < MANY


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        pytest.param(DeadlinePassed("x"), Got(1, 1, Counter({NEVER: 1})), id="waited in vain"),
        pytest.param(Cancelled("it left"), Got(0, 0, Counter({bucket(50_000): 1})), id="has waited so long at least"),
        pytest.param(ModelFailed("x"), Got(1, 1, Counter()), id="was not late: it failed"),
        pytest.param(BackendLost("x"), Got(1, 1, Counter()), id="lost"),
        pytest.param(Overloaded("x"), Got(1, 1, Counter()), id="pushed out of the queue"),
        pytest.param(InvalidInference("x"), Got(0, 0, Counter()), id="the caller's own doing"),
    ],
)
def test_one_who_was_not_answered_counts_as_what_became_of_it(error: HeadraceError, counted: Got) -> None:
    callers = Callers()
    callers.asked(error, 0.05)

    assert callers.got == counted


@pytest.mark.parametrize(
    ("refusal", "failures"), [(Overloaded("x"), 1), (NotServing("x"), 1), (DeadlinePassed("x"), 1), (Cancelled("x"), 0)]
)
def test_one_who_was_refused_at_the_door_has_not_waited(refusal: HeadraceError, failures: int) -> None:
    callers = Callers()
    callers.refused(refusal)

    assert callers.got == Got(failures, failures, Counter())


def test_what_was_taken_is_not_counted_again() -> None:
    callers = Callers()
    callers.asked(ANSWER, 0.004)
    callers.asked(DeadlinePassed("x"), 0.05)

    assert callers.take() == Got(2, 1, Counter({bucket(4_000): 1, NEVER: 1}))
    assert callers.take() == Got(0, 0, Counter())
    callers.asked(ANSWER, 0.004)
    assert callers.got == Got(1, 0, Counter({bucket(4_000): 1}))
