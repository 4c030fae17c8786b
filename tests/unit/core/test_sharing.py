"""Whether replicas slow each other down, and when that is held to be known."""

from __future__ import annotations

import pytest

from headrace.core.sharing import Sharing


def taught(alone: float, beside: float, batches: int = 100) -> Sharing:
    sharing = Sharing()
    for _ in range(batches):
        sharing.observe(alone, alone=True)
        sharing.observe(beside, alone=False)
    return sharing


def test_replicas_on_devices_of_their_own_cost_each_other_nothing() -> None:
    assert not taught(1.0, 1.05).costly


def test_replicas_on_the_same_cores_are_found_out() -> None:
    sharing = taught(0.7, 1.3)

    assert sharing.slowdown == pytest.approx(1.3 / 0.7, rel=0.01)
    assert sharing.costly


def test_nothing_is_said_before_both_kinds_were_seen() -> None:
    assert not taught(0.5, 5.0, batches=5).costly
    only_alone = Sharing()
    for _ in range(100):
        only_alone.observe(1.0, alone=True)
    assert only_alone.slowdown == 1.0


def test_one_pause_of_the_machine_does_not_change_the_mind() -> None:
    sharing = taught(1.0, 1.0)
    sharing.observe(100.0, alone=False)

    assert not sharing.costly
