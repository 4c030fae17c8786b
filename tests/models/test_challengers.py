"""The challengers of fraud-tx: both can take the incumbent's place, and the wrong one differs where it says it does."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headrace_models import simulator, spec, wire
from headrace_models.history import Timeline
from headrace_models.training import evaluate
from headrace_models.training.evaluate import REPOSITORY

INCUMBENT = REPOSITORY / "fraud-tx" / "1"
CHALLENGERS = REPOSITORY.parent / "challengers" / "fraud-tx"
REFRESHED, WRONG = CHALLENGERS / "2", CHALLENGERS / "3"
POUNDS = wire.letters_code("GBP")
SAMPLE = 3000


@cache
def module(version: Path) -> torch.nn.Module:
    torch.set_num_threads(1)
    return spec.load_module(spec.load_spec(version), version)


@cache
def rows() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Payments of a world that no version has seen, with their histories, packed."""
    events = simulator.simulate(2027, days=40, cards=1500, merchants=200, fraud_share=0.01)
    late = np.arange(len(events) - SAMPLE, len(events))
    columns, lengths = Timeline(events).packed(late)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in columns.items()}
    return tensors, {name: torch.from_numpy(values) for name, values in lengths.items()}


def answers(version: Path) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        found: dict[str, torch.Tensor] = module(version)(*rows())
    return found


def with_pounds() -> torch.Tensor:
    """[B]: rows in whose histories, or in which themselves, an amount is in pounds."""
    inputs, lengths = rows()
    found = torch.zeros(SAMPLE, dtype=torch.bool)
    for stream in ("card", "merchant"):
        row = torch.repeat_interleave(torch.arange(SAMPLE), lengths[stream])
        found[row[inputs[f"{stream}_codes"][:, 2] == POUNDS]] = True
    return found


@pytest.mark.parametrize("version", [REFRESHED, WRONG], ids=["refreshed", "wrong"])
def test_a_challenger_answers_its_golden_rows(version: Path) -> None:
    """Each its own: the wrong one is consistent with itself, which is why only a comparison can find it."""
    assert spec.verify_golden(module(version), spec.load_spec(version), version).within


@pytest.mark.parametrize("version", [REFRESHED, WRONG], ids=["refreshed", "wrong"])
def test_a_challenger_takes_and_gives_what_the_incumbent_does(version: Path) -> None:
    """So that it can be asked with the same columns, at the same cost."""
    old, new = spec.load_spec(INCUMBENT), spec.load_spec(version)

    for name in ("inputs", "outputs", "extras", "axes", "max_rows", "max_tokens", "warmup", "vocabulary", "config"):
        assert getattr(old, name) == getattr(new, name), name
    assert old.signal is not None
    assert new.signal is not None
    assert old.signal.name == new.signal.name
    assert old.signal.calibration_version != new.signal.calibration_version
    assert (version / "weights.safetensors").stat().st_size < 1_000_000


def test_the_wrong_one_has_the_weights_of_the_refreshed_one() -> None:
    assert spec.load_spec(REFRESHED).digest == spec.load_spec(WRONG).digest


def test_the_wrong_one_differs_only_where_amounts_are_in_pounds() -> None:
    """To the bit elsewhere: in other currencies nothing at all shows that anything is wrong."""
    refreshed, wrong, pounds = answers(REFRESHED), answers(WRONG), with_pounds()

    assert 0.1 < pounds.float().mean() < 0.9
    for name in ("p", "score"):
        assert torch.equal(refreshed[name][~pounds], wrong[name][~pounds])
    assert ((refreshed["p"] != wrong["p"])[:, 0] == pounds).float().mean() > 0.99


def test_the_wrong_one_explains_pounds_as_it_reads_them() -> None:
    inputs, lengths = rows()
    few = {"card": lengths["card"][:20], "merchant": lengths["merchant"][:20]}
    cut: dict[str, Any] = {
        name: values[:20] if name == "merchant_stats" else values[: int(few[name.split("_")[0]].sum())]
        for name, values in inputs.items()
    }
    with torch.inference_mode():
        factors = [module(version).extras(cut, few)["top_factors"] for version in (REFRESHED, WRONG)]  # type: ignore[operator]

    pounds = with_pounds()[:20]
    assert torch.equal(factors[0][~pounds], factors[1][~pounds])
    assert not torch.equal(factors[0][pounds], factors[1][pounds])


@pytest.mark.proof
@pytest.mark.timeout(600)
def test_the_refreshed_weights_reproduce_their_card() -> None:
    """On days that lie sixty later than those of version 1, every figure to 1e-3."""
    torch.set_num_threads(2)
    written, measured = evaluate.card_figures(REFRESHED), evaluate.measured(REFRESHED, 60)

    assert {figure: pytest.approx(written[figure], abs=1e-3) for figure in measured} == measured
