"""The figures that judge a model, against ones worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headrace_models import calibration, collate

P = np.array([0.9, 0.8, 0.7, 0.6, 0.55, 0.5])
LABEL = np.array([True, False, True, False, False, True])


def test_auc_counts_the_pairs_in_order() -> None:
    assert calibration.auc(P, LABEL) == pytest.approx(5 / 9)  # 3 + 2 + 0 of nine pairs
    assert calibration.auc(np.ones(6), LABEL) == pytest.approx(0.5)


def test_average_precision_is_the_mean_precision_at_each_fraud() -> None:
    assert calibration.average_precision(P, LABEL) == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)


def test_platt_finds_the_line_that_made_the_labels_even_from_thinned_rows() -> None:
    rng = np.random.default_rng(1)
    logit = rng.normal(0, 2, 40_000)
    label = rng.random(40_000) < calibration.sigmoid(0.7 * logit - 3)

    a, b = calibration.fit_platt(logit, label.astype(float), beta=0.1)

    assert a == pytest.approx(0.7, abs=0.05)
    assert b == pytest.approx(-3, abs=0.1)


def test_scores_mean_rarity() -> None:
    p = np.random.default_rng(2).random(200_000)
    edges = torch.from_numpy(calibration.score_edges(p)).float()

    scores = calibration.to_score(torch.from_numpy(p).float(), edges).numpy()

    assert scores.min() == 0
    assert scores.max() == 99
    assert (scores >= 50).mean() == pytest.approx(0.01, rel=0.1)
    assert (scores >= 75).mean() == pytest.approx(0.001, rel=0.2)
    assert (np.diff(scores[np.argsort(p)]) >= 0).all()


def test_a_confident_and_right_model_is_calibrated() -> None:
    p = np.repeat([0.1, 0.8], 5000)
    label = np.concatenate([np.arange(5000) < 500, np.arange(5000) < 4000])

    assert calibration.calibration_error(p, label, bins=2) < 1e-9


def test_every_row_is_in_the_smallest_bucket_it_fits_and_empty_ones_in_none() -> None:
    lengths = torch.tensor([0, 1, 8, 9, 64, 128])

    groups = [(rows.tolist(), length) for rows, length in collate.by_bucket(lengths)]

    assert groups == [([1, 2], 8), ([3], 16), ([4], 64), ([5], 128)]
    assert collate.padded_tokens(lengths) == 16 + 16 + 64 + 128
    with pytest.raises(ValueError, match="a row of 129 events"):
        list(collate.by_bucket(torch.tensor([129])))
