"""The figures that judge a model: worked out by hand, and against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from headrace_models import figures
from headrace_models.figures import Judged

P = np.array([0.9, 0.8, 0.7, 0.6, 0.55, 0.5])
POSITIVE = np.array([True, False, True, False, False, True])
ONCE = np.ones(6)


def random(seed: int) -> Judged:
    rng = np.random.default_rng(seed)
    p = rng.random(3000).round(2)  # ties
    return Judged(p, rng.random(3000) < p / 3, rng.integers(1, 5, 3000).astype(float))


def test_auc_counts_the_pairs_in_order() -> None:
    assert figures.auc(Judged(P, POSITIVE, ONCE)) == pytest.approx(5 / 9)  # 3 + 2 + 0 of nine pairs
    assert figures.auc(Judged(np.ones(6), POSITIVE, ONCE)) == pytest.approx(0.5)


def test_average_precision_is_the_mean_precision_at_each_positive() -> None:
    assert figures.average_precision(Judged(P, POSITIVE, ONCE)) == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)


@pytest.mark.parametrize("seed", range(5))
def test_weights_and_ties_count_as_they_do_elsewhere(seed: int) -> None:
    of = random(seed)

    assert figures.auc(of) == pytest.approx(metrics.roc_auc_score(of.positive, of.p, sample_weight=of.weight))
    expected = metrics.average_precision_score(of.positive, of.p, sample_weight=of.weight)
    assert figures.average_precision(of) == pytest.approx(expected)
    expected = metrics.brier_score_loss(of.positive, of.p, sample_weight=of.weight)
    assert figures.brier(of) == pytest.approx(expected)


def test_a_row_that_stands_for_several_is_several_rows() -> None:
    of = random(1)
    spread = Judged(
        *(np.repeat(values, of.weight.astype(int)) for values in (of.p, of.positive)), np.ones(int(of.weight.sum()))
    )

    assert figures.auc(of) == pytest.approx(figures.auc(spread))
    assert figures.average_precision(of) == pytest.approx(figures.average_precision(spread))
    assert figures.calibration_error(of) == pytest.approx(figures.calibration_error(spread), abs=0.01)


def test_precision_among_the_first_alerts() -> None:
    of = Judged(P, POSITIVE, ONCE)

    assert [figures.precision_at(of, alerts) for alerts in (1, 2, 3)] == pytest.approx([1, 0.5, 2 / 3])
    assert figures.precision_at(Judged(P, POSITIVE, np.full(6, 2.0)), 3) == pytest.approx(
        2 / 3
    )  # half of the second row


def test_recall_at_a_rate_of_false_positives() -> None:
    of = Judged(np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False]), np.ones(4))

    assert figures.recall_at_false_positives(of, 0.5) == pytest.approx(0.5)
    assert figures.recall_at_false_positives(of, 0.9) == pytest.approx(1.0)


def test_a_confident_and_right_model_is_calibrated() -> None:
    p = np.repeat([0.1, 0.8], 5000)
    positive = np.concatenate([np.arange(5000) < 500, np.arange(5000) < 4000])

    assert figures.calibration_error(Judged(p, positive, np.ones(10_000)), bins=2) < 1e-9
    table = figures.reliability(Judged(p, positive, np.ones(10_000)), bins=2)
    assert table[:, 1] == pytest.approx([0.1, 0.8])


def test_the_interval_draws_cards_and_not_rows() -> None:
    """Few cards with all the positives: the interval is wide, however many rows they have."""
    of = random(2)
    of = of.take(np.argsort(of.positive, kind="stable"))
    by_row = figures.bootstrap(of, np.arange(3000), draws=60)
    by_card = figures.bootstrap(of, np.arange(3000) // 100, draws=60)

    assert by_row[0] < figures.average_precision(of) < by_row[1]
    assert by_card[1] - by_card[0] > by_row[1] - by_row[0]
