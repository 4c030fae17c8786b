"""When a replica may blame its own stream: only while control answers others."""

from __future__ import annotations

from headrace.serving.registration import Neglect
from headrace.testing.clock import FakeClock


def test_an_outage_of_control_counts_for_nothing() -> None:
    clock = FakeClock()
    neglect = Neglect(clock)
    for _ in range(100):
        clock.advance(1)
        neglect.probed(answered=False)

    assert neglect.seconds == 0


def test_time_counts_from_the_first_answer_to_somebody_else() -> None:
    clock = FakeClock()
    neglect = Neglect(clock)
    clock.advance(60)
    for _ in range(4):
        neglect.probed(answered=True)
        clock.advance(1)

    assert neglect.seconds == 3


def test_an_acknowledgement_or_a_failed_probe_starts_the_count_again() -> None:
    clock = FakeClock()
    acknowledged, interrupted = Neglect(clock), Neglect(clock)
    for neglect in (acknowledged, interrupted):
        neglect.probed(answered=True)
    clock.advance(5)
    acknowledged.acknowledged()
    interrupted.probed(answered=False)
    for neglect in (acknowledged, interrupted):
        neglect.probed(answered=True)

    assert (acknowledged.seconds, interrupted.seconds) == (0, 0)
