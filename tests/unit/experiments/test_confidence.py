from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.experiments.confidence import rate_interval

ALPHA = 0.05


@pytest.mark.parametrize(
    ("events", "trials", "upper"),
    [
        (0, 5_000, "0.099"),
        (1, 5_000, "0.154"),
        (5, 5_000, "0.306"),
        (10, 5_000, "0.465"),
        (0, 50_000, "0.012"),
        (50, 50_000, "0.156"),
        (150, 50_000, "0.393"),
        (200, 50_000, "0.507"),
    ],
)
def test_upper_bounds_of_rare_rates_are_those_of_the_exact_beta_mixture(events: int, trials: int, upper: str) -> None:
    """To the digits of a table that was computed independently."""
    assert f"{100 * rate_interval(events, trials, ALPHA)[1]:.3f}" == upper


def test_half_a_per_cent_allows_11_flips_of_5_000_and_196_of_50_000() -> None:
    assert rate_interval(11, 5_000, ALPHA)[1] <= 0.005 < rate_interval(12, 5_000, ALPHA)[1]
    assert rate_interval(196, 50_000, ALPHA)[1] <= 0.005 < rate_interval(197, 50_000, ALPHA)[1]


def test_no_trials_exclude_no_rate() -> None:
    assert rate_interval(0, 0, ALPHA) == (0.0, 1.0)


@given(st.integers(0, 10_000), st.data(), st.floats(0.001, 0.5))
def test_an_interval_contains_the_rate_that_was_seen(trials: int, data: st.DataObject, alpha: float) -> None:
    events = data.draw(st.integers(0, trials))
    lower, upper = rate_interval(events, trials, alpha)

    assert 0 <= lower <= upper <= 1
    assert not trials or lower <= events / trials <= upper


@given(st.integers(1, 5_000), st.data(), st.floats(0.001, 0.2))
def test_who_is_surer_has_the_wider_interval(trials: int, data: st.DataObject, alpha: float) -> None:
    events = data.draw(st.integers(0, trials))
    lower, upper = rate_interval(events, trials, alpha)
    wider_lower, wider_upper = rate_interval(events, trials, alpha / 2)

    assert wider_lower <= lower <= upper <= wider_upper


@given(st.integers(0, 20), st.integers(20, 500))
def test_an_interval_shrinks_as_the_same_rate_is_seen_in_more_trials(events: int, trials: int) -> None:
    lower, upper = rate_interval(events, trials, ALPHA)
    later_lower, later_upper = rate_interval(4 * events, 4 * trials, ALPHA)

    assert later_upper - later_lower < upper - lower


@given(st.integers(0, 499), st.integers(500, 5_000))
def test_one_event_more_moves_both_ends_up(events: int, trials: int) -> None:
    lower, upper = rate_interval(events, trials, ALPHA)
    more_lower, more_upper = rate_interval(events + 1, trials, ALPHA)

    assert lower <= more_lower
    assert upper <= more_upper


@pytest.mark.parametrize(("events", "trials", "alpha"), [(2, 1, ALPHA), (-1, 1, ALPHA), (0, 1, 0.0), (0, 1, 1.0)])
def test_what_is_no_rate_or_no_alpha_is_refused(events: int, trials: int, alpha: float) -> None:
    with pytest.raises(ValueError, match=r"events of|alpha is"):
        rate_interval(events, trials, alpha)


@pytest.mark.slow
@pytest.mark.parametrize("p", [0.001, 0.005, 0.02])
def test_looking_a_hundred_times_a_true_rate_is_excluded_in_no_more_than_alpha_of_the_streams(p: float) -> None:
    """Neither promoted wrongly (the upper end below the rate) nor rejected wrongly (the lower end above it)."""
    rng = np.random.default_rng(5)
    looks = np.arange(100, 10_001, 100)
    missed = 0
    for events in rng.binomial(100, p, (2_000, len(looks))).cumsum(1):
        ends = (rate_interval(int(k), int(n), ALPHA) for k, n in zip(events, looks, strict=True))
        missed += any(not lower <= p <= upper for lower, upper in ends)

    assert missed / 2_000 <= ALPHA
