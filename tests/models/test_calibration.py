"""From a logit to a probability and to a score that keeps its meaning; and the buckets of padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headrace_models import calibration, collate
from headrace_models.calibration import Calibration


def test_platt_finds_the_line_that_made_the_labels_even_from_thinned_rows() -> None:
    rng = np.random.default_rng(1)
    logit = rng.normal(0, 2, 80_000)
    label = rng.random(80_000) < calibration.sigmoid(0.7 * logit - 3)
    kept = label | (rng.random(80_000) < 0.25)
    weight = np.where(label, 1.0, 4.0)[kept]

    a, b = calibration.fit_platt(logit[kept], label[kept].astype(float), weight, prior=np.log(0.1))

    assert a == pytest.approx(0.7, abs=0.05)
    assert b == pytest.approx(-3, abs=0.1)


def test_scores_mean_rarity_whatever_the_probabilities() -> None:
    rng = np.random.default_rng(2)
    for p in (rng.random(200_000), rng.random(200_000) ** 8 * 0.01):
        edges = torch.from_numpy(calibration.score_edges(p, np.ones(len(p)))).double()
        scores = torch.searchsorted(edges, torch.from_numpy(p), right=True).numpy()

        assert scores.min() == 0
        assert scores.max() == 99
        assert (scores >= 25).mean() == pytest.approx(0.0977, rel=0.05)
        assert (scores >= 50).mean() == pytest.approx(0.0095, rel=0.1)
        assert (scores >= 75).mean() == pytest.approx(0.00093, rel=0.2)
        assert (np.diff(scores[np.argsort(p)]) >= 0).all()


def test_thinned_traffic_has_the_edges_of_the_whole() -> None:
    rng = np.random.default_rng(3)
    p = rng.random(300_000) ** 4
    top = p > 0.9
    kept = top | (rng.random(len(p)) < 0.2)

    whole = calibration.score_edges(p, np.ones(len(p)))
    thinned = calibration.score_edges(p[kept], np.where(top, 1.0, 5.0)[kept])

    assert np.abs(whole - thinned).max() < 0.02


def test_short_histories_are_calibrated_apart() -> None:
    rng = np.random.default_rng(4)
    n = 60_000
    logit, length = rng.normal(0, 2, n), rng.integers(1, 20, n)
    short = length <= calibration.SHORT
    label = rng.random(n) < calibration.sigmoid(np.where(short, 0.5 * logit - 1, logit - 3))

    fitted = Calibration()
    fitted.fit(logit, length, label.astype(float), np.ones(n), kept=1.0)

    assert fitted.platt[1].numpy() == pytest.approx([0.5, -1], abs=0.1)
    p, score = fitted(torch.tensor([1.0, 1.0]), torch.tensor([2, 10]))
    assert p[0] > p[1]
    assert score[0] > score[1]


def test_a_calibration_is_named_by_its_numbers() -> None:
    first, other = Calibration(), Calibration()
    assert first.version() == other.version()
    other.edges[3] += 0.001
    assert first.version() != other.version()
    assert len(first.version()) == 12


def test_every_row_is_in_the_smallest_bucket_it_fits_padded_to_its_longest_and_empty_ones_in_none() -> None:
    lengths = torch.tensor([0, 1, 8, 9, 64, 128])

    groups = [(rows.tolist(), length) for rows, length in collate.by_bucket(lengths)]

    assert groups == [([1, 2, 3], 9), ([4], 64), ([5], 128)]
    assert collate.padded_tokens(lengths) == 27 + 64 + 128
    with pytest.raises(ValueError, match="a row of 129 events"):
        list(collate.by_bucket(torch.tensor([129])))
