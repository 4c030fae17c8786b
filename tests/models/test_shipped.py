"""The shipped weights are what their cards say: measured again on the same simulated days and held-back block."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from headrace_models.training import evaluate
from headrace_models.training.evaluate import REPOSITORY

FRAUD = ("fraud-tx", "fraud-gru")


@pytest.mark.proof
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [*FRAUD, "acceptance"])
def test_the_shipped_weights_reproduce_their_card(name: str) -> None:
    """Every figure to 1e-3."""
    torch.set_num_threads(2)
    directory = REPOSITORY / name / "1"
    written, measured = evaluate.card_figures(directory), evaluate.measured(directory)

    assert {figure: pytest.approx(written[figure], abs=1e-3) for figure in measured} == measured
    assert len(measured) > 10


@pytest.mark.parametrize("name", FRAUD)
def test_the_card_of_a_fraud_model_says_that_it_beats_both_baselines(name: str) -> None:
    rows = table(REPOSITORY / name / "1" / "MODEL_CARD.md", "| | AUC | average precision |")
    precision = {row[0]: float(row[2]) for row in rows}

    assert precision[name] > max(precision["logistic regression"], precision["gradient-boosted trees"])


def test_the_card_of_acceptance_says_what_choosing_by_it_brings() -> None:
    figures = evaluate.card_figures(REPOSITORY / "acceptance" / "1")
    exact, logged = figures["approved, the model's choice (exact)"], figures["approved, retries as logged"]

    assert exact > 1.5 * logged
    assert figures["approved, the model's choice (estimated from the log)"] == pytest.approx(exact, rel=0.1)
    assert exact <= figures["approved, the best choice there is (exact)"]


def table(path: Path, header: str) -> list[list[str]]:
    lines = path.read_text().splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith(header))
    rows = []
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows
