"""The figures of a model card, measured on the test block: what nothing was trained, chosen or calibrated on."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from torch import nn

from headrace_models import figures, simulator, wire
from headrace_models.acceptance import Acceptance
from headrace_models.calibration import SHORT, sigmoid
from headrace_models.events import Events
from headrace_models.figures import Judged
from headrace_models.training.split import Block, Index, is_retry
from headrace_models.training.tasks import AcceptanceTask, FraudTask, Task, logits, tensors

ALERTS_A_DAY: Final = 100
STALE_H: Final = (1, 6, 24)
"""How far histories are cut back to see what a lagging store costs."""

Figures = dict[str, float]
Probabilities = npt.NDArray[np.float64]


def probabilities(module: nn.Module, task: Task, rows: Index) -> Probabilities:
    """The module's calibrated answers."""
    logit = logits(module, task, rows)
    if isinstance(module, Acceptance):
        kind = is_retry(task.events)[rows].astype(int)
        platt = module.calibration.numpy().astype(float)
        return sigmoid(platt[kind, 0] * logit + platt[kind, 1])
    assert isinstance(task, FraudTask), "This is a bug."
    short = (task.lengths(rows) <= SHORT).astype(int)
    platt = module.calibration.platt.numpy().astype(float)  # type: ignore[union-attr, operator]
    found: Probabilities = sigmoid(platt[short, 0] * logit + platt[short, 1])
    return found


def judged(task: Task, block: Block, p: Probabilities) -> Judged:
    return Judged(p, task.target(block.rows) > 0, block.weight)


def of_fraud(module: nn.Module, task: FraudTask, block: Block, truth: simulator.Truth | None = None) -> Figures:
    """The main figures; with the simulator's `truth`, the AUC of each kind of fraud alone, too."""
    of = judged(task, block, probabilities(module, task, block.rows))
    low, high = figures.bootstrap(of, task.events.card[block.rows])
    found = ranking(of, task.events, block) | {
        "average precision, lower 95 %": low,
        "average precision, upper 95 %": high,
        "calibration error (ECE)": figures.calibration_error(of),
        "Brier score": figures.brier(of),
        "prevalence": float(np.average(of.positive, weights=of.weight)),
        "payments": round(of.weight.sum()),
        "frauds": int(of.positive.sum()),
    }
    if truth is not None:
        scenario = truth.scenario[block.rows]
        for kind, name in simulator.NAMES.items():
            found[f"AUC, {name} alone"] = figures.auc(of.take(~of.positive | (scenario == kind)))
    return found


def of_acceptance(
    module: nn.Module, task: AcceptanceTask, block: Block, truth: simulator.Truth | None = None
) -> Figures:
    """Retries and first attempts apart; with the simulator's `truth`, what choosing by the model would bring."""
    of = judged(task, block, probabilities(module, task, block.rows))
    again = is_retry(task.events)[block.rows]
    found: Figures = {}
    for kind, some in (("retries", again), ("first attempts", ~again)):
        part = of.take(some)
        if 0 < part.positive.sum() < len(part.p):
            low, high = figures.bootstrap(part, task.events.card[block.rows][some])
            found |= {
                f"AUC, {kind}": figures.auc(part),
                f"average precision, {kind}": figures.average_precision(part),
                f"average precision, {kind}, lower 95 %": low,
                f"average precision, {kind}, upper 95 %": high,
                f"calibration error (ECE), {kind}": figures.calibration_error(part),
                f"Brier score, {kind}": figures.brier(part),
                f"approved, {kind} as logged": float(part.positive.mean()),
                kind: len(part.p),
            }
    return found if truth is None else found | _policies(module, task, block.rows[again], truth)


def _policies(module: nn.Module, task: AcceptanceTask, rows: Index, truth: simulator.Truth) -> Figures:
    """Share of the retries that each way of choosing would have had approved: exact, for every outcome is simulated."""
    chances = truth.chances[rows].astype(float)
    approve = np.concatenate(
        [
            module(*tensors(task, part))["approve"].detach().numpy()
            for part in np.array_split(rows, len(rows) // 2048 + 1)
        ]
    )
    pick = np.arange(len(rows))
    plus_24h = wire.ACTIONS.index("plus_24h")
    # What a log alone can say of the model's choice: those retries where the log happened to choose it, reweighted.
    same = approve.argmax(1) == task.events.action[rows]
    propensity = task.events.propensity[rows].astype(float)
    propensity = propensity / (1 - simulator.STOPS)
    weight = same / propensity
    estimated = float((weight * task.target(rows)).sum() / weight.sum())
    return {
        "approved, always after 24 h (exact)": float(chances[:, plus_24h].mean()),
        "approved, the model's choice (exact)": float(chances[pick, approve.argmax(1)].mean()),
        "approved, the model's choice (estimated from the log)": estimated,
        "approved, the best choice there is (exact)": float(chances.max(1).mean()),
    }


def stale(module: nn.Module, events: Events, block: Block) -> Figures:
    """Average precision when the last hours of every history have not arrived."""
    found = {}
    for hours in STALE_H:
        task = FraudTask(events, stale_us=hours * wire.HOUR_US)
        of = judged(task, block, probabilities(module, task, block.rows))
        found[f"average precision without the last {hours} h"] = figures.average_precision(of)
    return found


def ranking(of: Judged, events: Events, block: Block) -> Figures:
    """What any ranking can be judged by, a baseline's too."""
    days = max(1.0, float(np.ptp(events.ts[block.rows])) / wire.DAY_US)
    return {
        "AUC": figures.auc(of),
        "average precision": figures.average_precision(of),
        f"precision in the top {ALERTS_A_DAY} a day": figures.precision_at(of, ALERTS_A_DAY * days),
        "recall at 1 % false positives": figures.recall_at_false_positives(of, 0.01),
    }


def measure(module: nn.Module, task: Task, block: Block, truth: simulator.Truth | None = None) -> Figures:
    """The figures of the task's kind."""
    if isinstance(task, AcceptanceTask):
        return of_acceptance(module, task, block, truth)
    assert isinstance(task, FraudTask), "This is a bug."
    return of_fraud(module, task, block, truth)


def compare(task: Task, block: Block, answers: dict[str, Any]) -> dict[str, Figures]:
    """What each baseline's ranking is worth: name → figures."""
    found = {}
    for name, answer in answers.items():
        of = judged(task, block, answer)
        if isinstance(task, AcceptanceTask):
            again = is_retry(task.events)[block.rows]
            parts = {"retries": of.take(again), "first attempts": of.take(~again)}
            found[name] = {f"AUC, {kind}": figures.auc(part) for kind, part in parts.items()}
            found[name] |= {
                f"average precision, {kind}": figures.average_precision(part) for kind, part in parts.items()
            }
        else:
            found[name] = ranking(of, task.events, block)
    return found
