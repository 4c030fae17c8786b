"""Arrivals: at the rate asked for, ascending, the same for a seed; bursts where they are said to be."""

from __future__ import annotations

import arrivals
import numpy as np
import pytest


def test_poisson_arrivals_have_the_rate_and_the_spread_of_a_poisson_process() -> None:
    times = arrivals.poisson(500, 200, seed=1)
    assert len(times) == pytest.approx(100_000, rel=0.02)
    assert (np.diff(times) >= 0).all()
    assert 0 <= times[0] < times[-1] < 200
    gaps = np.diff(times)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)


def test_a_seed_is_a_schedule() -> None:
    assert (arrivals.poisson(50, 10, seed=3) == arrivals.poisson(50, 10, seed=3)).all()
    assert len(np.intersect1d(arrivals.poisson(50, 10, seed=3), arrivals.poisson(50, 10, seed=4))) == 0


def test_bursts_are_ten_times_the_rate_in_their_windows_and_nowhere_else() -> None:
    bursts = arrivals.Bursts(factor=10, length_s=0.2, period_s=2.0)
    times = arrivals.bursty(300, 200, 1, bursts)
    inside = bursts.inside(times)
    assert inside.sum() / (100 * 0.2) == pytest.approx(3000, rel=0.02)
    assert (~inside).sum() / (100 * 1.8) == pytest.approx(300, rel=0.02)
    assert (np.diff(times) >= 0).all()


def test_a_schedule_may_end_inside_a_period() -> None:
    times = arrivals.bursty(300, 2.5, 1, arrivals.Bursts())
    assert 2.4 < times[-1] < 2.5


def test_the_phase_counts_from_the_end_of_a_burst() -> None:
    bursts = arrivals.Bursts(length_s=0.25, period_s=2.0)
    phase = bursts.phase_s(np.array([0.5, 1.75, 2.0, 3.5]))
    assert phase.tolist() == [0.5, 1.75, 0.0, 1.5]
    assert bursts.inside(np.array([0.5, 1.75, 2.0, 3.5])).tolist() == [False, True, False, False]
