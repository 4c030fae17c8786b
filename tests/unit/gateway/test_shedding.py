"""Copies give way at once, for a moment after a burst, and for long where payments are always too many."""

from __future__ import annotations

from headrace.gateway.shedding import CALM_S, LONGEST_S, SHORTEST_S, Shedding
from headrace.testing.clock import FakeClock


class Gateway:
    def __init__(self) -> None:
        self.clock, self.strained = FakeClock(), False
        self.shedding = Shedding(self.clock, lambda: self.strained)

    def pause_after_strain(self) -> float:
        """Strain for a moment; how long copies pause after it, to the millisecond."""
        self.strained = True
        assert self.shedding.pauses()
        self.strained = False
        steps = 0
        while self.shedding.pauses():
            self.clock.advance(0.001)
            steps += 1
        return steps / 1000


def near(seconds: float, expected: float) -> bool:
    return abs(seconds - expected) <= 0.0021


def test_nothing_pauses_without_strain() -> None:
    assert not Gateway().shedding.pauses()


def test_the_pause_after_a_burst_is_short_each_time() -> None:
    gateway = Gateway()
    for _ in range(5):
        assert near(gateway.pause_after_strain(), SHORTEST_S)
        gateway.clock.advance(CALM_S + 0.01)


def test_strain_that_comes_again_makes_the_pause_longer_up_to_a_bound() -> None:
    gateway = Gateway()
    pauses = [gateway.pause_after_strain() for _ in range(12)]

    assert all(near(pause, min(SHORTEST_S * 2**n, LONGEST_S)) for n, pause in enumerate(pauses))


def test_a_pause_is_over_when_it_is_over_whatever_happened_in_it() -> None:
    gateway = Gateway()
    gateway.strained = True
    assert gateway.shedding.pauses()
    gateway.clock.advance(SHORTEST_S / 2)
    assert gateway.shedding.pauses()
    gateway.strained = False
    gateway.clock.advance(SHORTEST_S)

    assert not gateway.shedding.pauses()
