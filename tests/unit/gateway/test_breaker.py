"""A version that refuses copies, or fails them all, is asked ever more seldom, and at once again when it answers."""

from __future__ import annotations

import pytest

from headrace.gateway.breaker import FAILURES, FIRST_S, LONGEST_S, Breaker, Came
from headrace.testing.clock import FakeClock


class Version:
    """Asked whenever the breaker lets anybody."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.breaker = Breaker(self.clock)

    def batches(self, number: int, *came: Came) -> None:
        for _ in range(number):
            self.breaker.learn(set(came))

    def pause_after(self, *came: Came) -> float:
        """How long nothing may be sent after such a batch, to the millisecond."""
        self.breaker.learn(set(came))
        steps = 0
        while self.breaker.hindrance:
            self.clock.advance(0.001)
            steps += 1
        return steps / 1000


def near(seconds: float, expected: float) -> bool:
    return abs(seconds - expected) <= 0.0021


def test_an_error_now_and_then_stops_nothing() -> None:
    version = Version()
    for _ in range(10):
        version.batches(FAILURES - 1, Came.FAILED)
        version.batches(1, Came.FAILED, Came.ANSWERED)

        assert not version.breaker.hindrance


@pytest.mark.parametrize(("came", "before"), [(Came.FAILED, FAILURES - 1), (Came.REFUSED, 0)])
def test_who_is_asked_in_vain_is_left_alone_for_longer_each_time(came: Came, before: int) -> None:
    version = Version()
    version.batches(before, came)
    pauses = [version.pause_after(came) for _ in range(10)]

    assert all(near(pause, min(FIRST_S[came] * 2**n, LONGEST_S)) for n, pause in enumerate(pauses))


def test_a_refusal_among_failures_neither_counts_nor_lengthens_their_pauses_nor_they_its_own() -> None:
    version = Version()
    version.batches(FAILURES - 1, Came.FAILED)

    assert near(version.pause_after(Came.REFUSED), FIRST_S[Came.REFUSED])
    assert near(version.pause_after(Came.FAILED), FIRST_S[Came.FAILED])
    assert near(version.pause_after(Came.REFUSED), 2 * FIRST_S[Came.REFUSED])
    assert near(version.pause_after(Came.FAILED), 2 * FIRST_S[Came.FAILED])


def test_an_answer_that_was_under_way_ends_the_pause() -> None:
    """One of its replicas is broken and quick, another one well and slow."""
    version = Version()
    version.batches(FAILURES, Came.FAILED)
    version.batches(1, Came.ANSWERED, Came.FAILED)

    assert not version.breaker.hindrance


@pytest.mark.parametrize(("came", "cause"), [(Came.FAILED, "failing"), (Came.REFUSED, "unready")])
def test_what_is_not_asked_is_counted_by_what_came_last(came: Came, cause: str) -> None:
    version = Version()
    version.batches(FAILURES, came)

    assert version.breaker.hindrance == cause


def test_one_answer_ends_it() -> None:
    version = Version()
    for _ in range(FAILURES + 5):
        version.pause_after(Came.FAILED)
    version.batches(1, Came.ANSWERED)

    assert version.pause_after(Came.FAILED) == 0
    assert near(version.pause_after(Came.REFUSED), FIRST_S[Came.REFUSED])


def test_batches_that_were_under_way_make_no_pause_longer() -> None:
    """Ten replicas that fail at the same moment are one failure."""
    version = Version()
    version.batches(FAILURES + 9, Came.FAILED)
    version.clock.advance(FIRST_S[Came.FAILED] + 0.001)

    assert not version.breaker.hindrance
    assert near(version.pause_after(Came.FAILED), 2 * FIRST_S[Came.FAILED])


def test_a_comparison_that_is_over_says_nothing_of_the_version() -> None:
    version = Version()
    version.batches(FAILURES, Came.NOTHING)
    version.batches(FAILURES, *())

    assert not version.breaker.hindrance
