"""The door's margin: what a busy loop takes off a caller's deadline, and how much at most."""

from __future__ import annotations

import pytest

from headrace.config import BatchingSettings
from headrace.core.records import RpcRecord
from headrace.errors import DeadlinePassed
from headrace.gateway.admission import Admission
from headrace.gateway.pressure import Pressure
from headrace.testing.clock import FakeClock


def left_s(pressure: Pressure, remaining_s: float | None) -> float:
    clock = FakeClock()
    record = RpcRecord(b"t" * 16, 1, 0, True, 0, "method", "", "")
    admission = Admission(8, clock, pressure)
    return admission.deadline(remaining_s, BatchingSettings(default_timeout_ms=80), record) - clock.now()


def test_an_idle_loop_takes_nothing_off_a_deadline() -> None:
    assert left_s(Pressure(), 0.05) == pytest.approx(0.05)
    assert left_s(Pressure(), None) == pytest.approx(0.08)


def test_what_seeing_and_telling_take_comes_off_a_deadline() -> None:
    pressure = Pressure()
    pressure.late_s, pressure.telling_s = 0.002, 0.003

    assert left_s(pressure, 0.05) == pytest.approx(0.045)


def test_a_margin_never_takes_more_than_a_quarter() -> None:
    pressure = Pressure()
    pressure.telling_s = 1.0

    assert left_s(pressure, 0.04) == pytest.approx(0.03)


def test_a_deadline_that_has_passed_is_told_at_once() -> None:
    with pytest.raises(DeadlinePassed):
        left_s(Pressure(), 0.0)
