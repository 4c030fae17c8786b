"""Simulated payments of a refreshed version: the same number of days, all of them later."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from headrace_models import simulator, wire
from headrace_models.simulator import START_US
from headrace_models.training import __main__ as command
from headrace_models.training import source

WORLD = {"days": 120, "cards": 300, "merchants": 50, "fraud_share": 0.01}


def test_days_begin_later_and_are_as_many() -> None:
    events, truth = source.simulated(7, WORLD, 60)

    day = (events.ts - START_US) / wire.DAY_US
    assert 60 <= day.min() < 60.5
    assert 179.5 < day.max() < 180
    assert len(truth.scenario) == len(truth.episode) == len(truth.chances) == len(events)
    assert (
        truth.scenario[events.label == wire.LABEL_FRAUD] > 0
    ).mean() > 0.9  # the truth of these events, not of others


def test_without_a_delay_it_is_the_world_itself() -> None:
    events, truth = source.simulated(7, WORLD)
    expected, expected_truth = simulator.with_truth(7, **WORLD)

    assert all(
        np.array_equal(getattr(expected, field.name), getattr(events, field.name), equal_nan=field.name == "propensity")
        for field in fields(expected)
    )
    assert np.array_equal(expected_truth.scenario, truth.scenario)


@pytest.mark.parametrize(("later", "begins"), [(0, ""), (60, ", beginning 60 days later")])
def test_a_card_says_how_much_later(later: int, begins: str) -> None:
    expected = f"The simulator (days 120, cards 300, merchants 50, fraud_share 0.01{begins}), seed 7"

    assert expected == source.in_words(7, WORLD, later)


def test_the_command_takes_days(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.parse(["--later", "60"]).later == 60
    assert command.parse([]).later == 0
    with pytest.raises(SystemExit):
        command.parse(["--later", "-3"])
    assert "'-3' is not a number of days" in capsys.readouterr().err
