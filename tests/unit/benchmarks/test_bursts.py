"""What happens around bursts is told apart, and recovery is the time until requests are as fast as before."""

from __future__ import annotations

import dataclasses

import bursts
import numpy as np
import outcomes
import pytest
from trail import Trail


def trail(latency_after_s: float, until_s: float, slow_kind: str = outcomes.RIGHT) -> Trail:
    """A request a millisecond for ten periods: 5 ms each, other latencies in a burst and for `until_s` after one."""
    intended = np.arange(0, 20, 0.001)
    phase = bursts.BURSTS.phase_s(intended)
    slow = bursts.BURSTS.inside(intended) | ((phase < until_s) & (intended > bursts.BURSTS.period_s))
    latency = np.where(slow, latency_after_s, 0.005)
    kinds = np.where(slow, outcomes.CLASSES.index(slow_kind), outcomes.CLASSES.index(outcomes.RIGHT)).astype(np.int8)
    return Trail(0.0, intended, intended, intended + latency, kinds)


@pytest.mark.parametrize(("slow_s", "expected"), [(0.0, 50), (0.12, 200), (0.4, 450)])
def test_recovery_is_the_first_bin_that_is_quiet_again(slow_s: float, expected: int) -> None:
    assert bursts.recovery_ms(trail(0.04, slow_s)) == expected


def test_refusals_are_no_recovery() -> None:
    assert bursts.recovery_ms(trail(0.001, 0.3, outcomes.REFUSED)) == 350


def test_one_that_never_recovers_says_so() -> None:
    slow = trail(0.04, 0.3)
    never = np.full_like(slow.outcome, outcomes.CLASSES.index(outcomes.REFUSED))

    assert bursts.recovery_ms(dataclasses.replace(slow, outcome=never)) is None


def test_inside_and_outside_are_told_apart() -> None:
    found = bursts.around_bursts(trail(0.04, 0.0))
    assert (found["inside_p99_ms"], found["outside_p99_ms"]) == (pytest.approx(40), pytest.approx(5))
    assert (found["inside_right_share"], found["outside_right_share"]) == (1.0, 1.0)
