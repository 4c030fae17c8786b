"""Settings of fallbacks: off where nothing says otherwise, and refused at the start where they can't be meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from headrace.cluster import Cluster
from headrace.config import FallbackSettings, load
from headrace.errors import StartupError


def model(fallback: Any, name: str = "fraud-tx") -> dict[str, Any]:
    return {name: {"primary_version": "2", "fallback": fallback}}


def test_it_is_off_by_default() -> None:
    assert load(None, {}).model("fraud-tx").fallback is None


def test_a_file_says_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "headrace.yaml"
    path.write_text(
        "models:\n  fraud-tx:\n    primary_version: '2'\n    fallback:\n      version: previous\n"
        "      prior: {p: 0.02, score: 10}\n      reasons: [deadline]\n      reserve_ms: 15\n"
    )

    found = load(path, {}).model("fraud-tx").fallback

    assert found is not None
    assert (found.version, dict(found.prior), found.reasons) == ("previous", {"p": 0.02, "score": 10}, ("deadline",))
    assert found.reserve_s == 0.015


@pytest.mark.parametrize(
    ("fallback", "sentence"),
    [
        ({}, "needs a version, a model or a prior"),
        ({"version": "1", "model": "small"}, "say one of them"),
        ({"version": "latest"}, "should match pattern"),
        ({"version": "0"}, "should match pattern"),
        ({"prior": {"p": float("nan")}}, "finite"),
        ({"prior": {"p": 0.1}, "reasons": []}, "leave the fallback out"),
        ({"prior": {"p": 0.1}, "reasons": ["model_failed"]}, "Input should be"),
        ({"prior": {"p": 0.1}, "reserve_ms": 0}, "greater than 0"),
        ({"model": "fraud-tx"}, "is the model itself"),
    ],
)
def test_what_cannot_be_meant_stops_the_start(fallback: dict[str, Any], sentence: str) -> None:
    with pytest.raises(StartupError, match=sentence):
        load(None, {}, models=model(fallback))


def test_it_stands_in_for_a_version_that_is_named() -> None:
    """Else the highest that is ready is in charge, and where it is lost the one before it answers, and says nothing."""
    with pytest.raises(StartupError, match="fallback needs primary_version"):
        load(None, {}, models={"fraud-tx": {"fallback": {"version": "previous"}}})


def test_less_time_is_kept_where_nobody_is_asked() -> None:
    assert FallbackSettings(prior={"p": 0.1}).reserve_s < FallbackSettings(version="previous").reserve_s


@pytest.mark.parametrize(
    ("prior", "sentence"),
    [({"p": 0.1}, "does not say output 'score'"), ({"p": 0.1, "score": 10, "x": 1}, "names 'x'")],
)
def test_a_prior_that_does_not_fit_the_model_stops_the_start_of_a_cluster(
    prior: dict[str, float], sentence: str
) -> None:
    with pytest.raises(StartupError, match=f"models.fraud-tx.fallback: .*{sentence}"):
        Cluster(load(None, {}, models=model({"prior": prior}), only=("fraud-tx",)))


def test_one_that_fits_does_not(tmp_path: Path) -> None:
    prior = {"prior": {"p": 0.1, "score": 10}}
    settings = load(None, {}, models=model(prior), only=("fraud-tx",), control__ledger=tmp_path / "ledger.db")

    cluster = Cluster(settings)

    assert cluster.settings.model("fraud-tx").fallback is not None
