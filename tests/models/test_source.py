"""A refreshed version: simulated payments that are later, weights that have learnt already."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from headrace_models import simulator, spec, wire
from headrace_models.simulator import START_US
from headrace_models.simulator.files import write_csv
from headrace_models.training import __main__ as command
from headrace_models.training import source
from headrace_models.training.evaluate import REPOSITORY
from headrace_models.training.recipes import RECIPES
from headrace_models.training.split import Keep

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


def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> tuple[int, Path]:
    """Exit code, and the directory of the version."""
    recipe = RECIPES["fraud-tx"]
    keep = Keep(train=400, validation=300, reference=800, test=800)
    monkeypatch.setitem(RECIPES, "fraud-tx", replace(recipe, how=replace(recipe.how, keep=keep)))
    csv = tmp_path / "events.csv"
    write_csv(csv, simulator.simulate(5, days=150, cards=600, merchants=80, fraud_share=0.01))
    options = ["--events", str(csv), "--out", str(tmp_path), "--version", "2", "--epochs", "1", "--threads", "1"]
    return command.main([*options, *flags]), tmp_path / "fraud-tx" / "2"


def test_training_goes_on_from_the_weights_of_a_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few gentle steps leave them near where they were; another first draw would be nowhere near."""
    version = REPOSITORY / "fraud-tx" / "1"

    code, directory = trained(tmp_path, monkeypatch, "--start-from", str(version))

    assert code == 0
    before, after = (spec.load_module(spec.load_spec(of), of).state_dict() for of in (version, directory))
    moved = (after["head.0.weight"] - before["head.0.weight"]).norm() / before["head.0.weight"].norm()
    assert 0 < moved < 0.2
    assert "1 epoch, beginning with the weights of version 1." in (directory / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize("name", ["fraud-gru/1", "fraud-tx/9"])
def test_weights_of_something_else_end_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    code, _ = trained(tmp_path, monkeypatch, "--start-from", str(REPOSITORY / name))

    assert code == 1
    assert name in capsys.readouterr().err
