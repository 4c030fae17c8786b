"""The soak's verdict: the last quarter against the first, and every answer right."""

from __future__ import annotations

from collections import Counter

import pytest
import soak


def samples(first_mib: float, last_mib: float) -> list[tuple[float, float]]:
    """Ten minutes, a sample every 10 s: a warm-up that is far off, then a straight line."""
    line = [(float(at), first_mib + (last_mib - first_mib) * (at - 60) / 540) for at in range(60, 601, 10)]
    return [(float(at), 10.0) for at in range(0, 60, 10)] + line


@pytest.mark.parametrize(("last_mib", "passed"), [(100, True), (103.5, True), (110, False), (90, False)])
def test_the_gateway_must_stay_within_its_bar(last_mib: float, *, passed: bool) -> None:
    seen = soak.Soak({"gateway-0": samples(100, last_mib), "control": samples(50, 90)}, Counter(right=5))
    assert soak.verdict(seen, 60)["passed"] is passed


def test_the_warm_up_is_left_out() -> None:
    assert soak.growth(samples(100, 100), 60) == {"first_mib": 100, "last_mib": 100, "growth_percent": 0}


@pytest.mark.parametrize("failure", soak.FAILURES)
def test_a_single_failure_misses(failure: str) -> None:
    seen = soak.Soak({"gateway-0": samples(100, 100)}, Counter({"right": 5, failure: 1}))
    assert not soak.verdict(seen, 60)["passed"]


def test_a_run_without_any_answer_misses() -> None:
    assert not soak.verdict(soak.Soak({"gateway-0": samples(100, 100)}), 60)["passed"]
