from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_curve

from headrace.experiments.outcomes import calibration_error, labelled
from headrace.v1 import experiments_pb2 as pb


def drawn(n: int = 3_000, seed: int = 0, noise: float = 0.0) -> tuple[Any, Any, Any, Any]:
    """Integer scores of two sides, fraud, and entities of three payments each."""
    rng = np.random.default_rng(seed)
    fraud = rng.random(n) < 0.05
    exact = rng.normal(20 + 25 * fraud, 10)
    challenger = exact + rng.normal(0, noise, n) if noise else exact
    return np.rint(exact), np.rint(challenger), fraud, rng.integers(1, n // 3, n).astype(np.uint64)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=60))
def test_average_precision_and_recall_are_those_of_another_library_ties_and_all(of: list[tuple[int, bool]]) -> None:
    score, fraud = np.array([s for s, _ in of], float), np.array([f for _, f in of])
    if fraud.all() or not fraud.any():
        assert not labelled(score, score, fraud, np.zeros(len(of), np.uint64)).HasField("incumbent")
        return
    quality = labelled(score, -score, fraud, np.zeros(len(of), np.uint64))
    alarms, recall, _ = roc_curve(fraud, score, drop_intermediate=False)
    first = recall[alarms == 0].max()
    at = np.searchsorted(alarms, 0.01)

    assert quality.incumbent.average_precision == pytest.approx(average_precision_score(fraud, score))
    assert quality.challenger.average_precision == pytest.approx(average_precision_score(fraud, -score))
    assert quality.incumbent.recall_at_1_percent_fpr == pytest.approx(first + (recall[at] - first) * 0.01 / alarms[at])


def test_the_same_answers_gain_nothing_and_worse_ones_lose_surely() -> None:
    equal, worse = labelled(*drawn()), labelled(*drawn(noise=15.0))

    assert equal.average_precision_gain == equal.recall_gain == pb.Interval()
    assert worse.average_precision_gain.upper < 0
    assert worse.recall_gain.upper < 0
    assert worse.positives == drawn()[2].sum()


def test_one_seed_gives_one_answer() -> None:
    assert labelled(*drawn(noise=5.0), seed=1) == labelled(*drawn(noise=5.0), seed=1)
    assert labelled(*drawn(noise=5.0), seed=1) != labelled(*drawn(noise=5.0), seed=2)


def test_payments_of_one_entity_are_drawn_together() -> None:
    """Ten copies of each payment are no more evidence than one, once they are known to be one card's."""
    incumbent, challenger, fraud, _ = (np.repeat(of, 10) for of in drawn(600, noise=8.0))
    cards = np.repeat(np.arange(1, 601, dtype=np.uint64), 10)
    known, unknown = (
        labelled(incumbent, challenger, fraud, of).average_precision_gain for of in (cards, np.zeros(6_000, np.uint64))
    )

    assert known.upper - known.lower > 2 * (unknown.upper - unknown.lower)


def test_a_surer_interval_is_wider() -> None:
    sure, surer = (labelled(*drawn(noise=5.0), alpha=alpha).recall_gain for alpha in (0.2, 0.02))

    assert surer.lower < sure.lower < sure.upper < surer.upper


def test_calibration_is_measured_on_the_probabilities_where_there_are_any() -> None:
    rng = np.random.default_rng(3)
    p = rng.beta(0.5, 10, 50_000)
    fraud = rng.random(50_000) < p
    found = labelled(p[:2_000], p[:2_000], fraud[:2_000], np.zeros(2_000, np.uint64), p[:2_000], None)

    assert calibration_error(p, fraud) < 0.005
    assert calibration_error(p / 2, fraud) == pytest.approx(p.mean() / 2, rel=0.1)
    assert found.incumbent.HasField("calibration_error")
    assert not found.challenger.HasField("calibration_error")


def test_no_labels_are_no_figures() -> None:
    none = np.zeros(0)

    assert labelled(none, none, none, none) == pb.LabelledFigures()


@pytest.mark.parametrize("wrong", [np.zeros(2), np.array([0.0, np.nan, 0.0])])
def test_arrays_that_do_not_fit_are_named(wrong: Any) -> None:
    fraud, zeros = np.array([True, False, False]), np.zeros(3)

    with pytest.raises(ValueError, match="challenger: "):
        labelled(zeros, wrong, fraud, zeros)
    with pytest.raises(ValueError, match="p: "):
        labelled(zeros, zeros, fraud, zeros, wrong)
