"""What a report says in plain words: the headline, what is in the way, the next step and the command for it.

Both renderings ask here, so that a terminal and a page say the same. It decides nothing: verdicts are the gates'.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from headrace.experiments import words
from headrace.v1 import experiments_pb2 as pb

SHARES: Final = (0.01, 0.05, 0.25, 1.0)
"""Of the canary, where a plan names none."""
MAX_FLIP_RATE: Final = 0.005
WAY: Final = (pb.STAGE_DRAFT, pb.STAGE_SHADOW, pb.STAGE_CANARY, pb.STAGE_PRIMARY, pb.STAGE_FINISHED)
ENDED: Final = frozenset({pb.STAGE_FINISHED, pb.STAGE_ROLLED_BACK})
URGENCY: Final = {pb.VERDICT_FAIL: 0, pb.VERDICT_CONSENT: 1, pb.VERDICT_WAIT: 2}


class Step(NamedTuple):
    """What to do next."""

    sentence: str
    command: str
    """For a shell; empty: nothing is left to do."""


def in_the_way(report: pb.Report) -> list[pb.Gate]:
    """The gates that do not pass, the broken ones first."""
    return sorted((g for g in report.gates if g.verdict in URGENCY), key=lambda g: URGENCY[g.verdict])


def headline(report: pb.Report) -> str:
    """The verdict as one sentence, of the version that wants to be in charge."""
    experiment = report.experiment
    name = f"Version {words.plain(experiment.challenger)}"
    if experiment.stage == pb.STAGE_FINISHED:
        return f"{name} is in charge. Nothing is compared any more."
    if experiment.stage == pb.STAGE_ROLLED_BACK:
        return f"{name} was taken back. Version {words.plain(experiment.incumbent)} answers."
    if experiment.stage == pb.STAGE_DRAFT:
        return "Nothing is compared yet."
    broken = sum(gate.verdict == pb.VERDICT_FAIL for gate in report.gates)
    return {
        pb.VERDICT_PASS: f"{name} may go on: every gate holds.",
        pb.VERDICT_FAIL: f"{name} may not go on: {_gates(broken)} broken.",
        pb.VERDICT_CONSENT: f"{name} may go on if a person agrees.",
    }.get(report.verdict, f"It is not known yet whether version {words.plain(experiment.challenger)} may go on.")


def next_step(report: pb.Report) -> Step:
    """What to do, and how to ask for it."""
    experiment = report.experiment
    if experiment.stage in ENDED:
        return Step("Nothing is left to do.", "")
    if experiment.stage == pb.STAGE_DRAFT:
        return Step(f"To begin, {_ahead(experiment)}.", _command(experiment, "promote"))
    return _STEPS.get(report.verdict, _wait)(experiment)


def flip_limit(report: pb.Report) -> float:
    """The share of flips that is allowed, as the gate has it; where no gate says a limit, the plan's."""
    for gate in report.gates:  # the noise floor may have raised it: only the gate knows
        if gate.name == "flips" and gate.HasField("limit_value"):
            return gate.limit_value
    gates = report.experiment.plan.gates
    return gates.max_flip_rate if gates.HasField("max_flip_rate") else MAX_FLIP_RATE


def worst_flips(figures: pb.Figures) -> pb.Flips | None:
    """The threshold at which most decisions differ."""
    return max(figures.flips, key=lambda flips: share(flips.rate), default=None)


def share(rate: pb.Rate) -> float:
    return rate.events / rate.trials if rate.trials else 0.0


def above(rate: pb.Rate, limit: float) -> str:
    """Whether a part of the pairs is worse than the whole may be, in words; empty: it is not."""
    if not rate.trials or share(rate) <= limit:
        return ""
    return "above the limit" if rate.interval.lower > limit else "perhaps above"


def gain(interval: pb.Interval) -> str:
    """What an interval of a difference in quality shows."""
    if interval.lower > 0:
        return "better"
    return "worse" if interval.upper < 0 else "no difference shown"


def coverage(figures: pb.Figures) -> float:
    """Share of what was sampled that became a pair; what is under way counts as neither."""
    ended = figures.pairs + sum(figures.drops.values())
    return figures.pairs / ended if ended else 0.0


def middle(figures: pb.Figures) -> list[tuple[str, float, float]]:
    """Between which deltas a share of the pairs lies: `("98 %", -0.01, 0.02)`, the narrowest first."""
    values = {round(q.rank, 6): q.value for q in figures.delta_quantiles}
    ranks = sorted((rank for rank in values if rank < 0.5 and round(1 - rank, 6) in values), reverse=True)
    return [(words.short_percent(1 - 2 * r), values[r], values[round(1 - r, 6)]) for r in ranks]


def _gates(number: int) -> str:
    return "a gate is" if number <= 1 else f"{number} gates are"


def _command(experiment: pb.Experiment, verb: str, *more: str) -> str:
    return " ".join(("headrace experiment", verb, shlex.quote(words.plain(experiment.id)), *more))


def _ahead(experiment: pb.Experiment) -> str:
    """What the step forwards from here does, as an order."""
    challenger = f"version {words.plain(experiment.challenger)}"
    if experiment.stage == pb.STAGE_DRAFT:
        return f"ask {challenger} as well while version {words.plain(experiment.incumbent)} answers"
    if experiment.stage == pb.STAGE_PRIMARY:
        return f"end the comparison, with {challenger} in charge"
    shares = experiment.plan.canary_shares or SHARES
    larger = [each for each in shares if experiment.stage == pb.STAGE_SHADOW or each > experiment.canary_share + 1e-9]
    return (
        f"let {challenger} answer {words.short_percent(larger[0])} of the entities"
        if larger
        else f"put {challenger} in charge"
    )


def _go(experiment: pb.Experiment) -> Step:
    if experiment.plan.automatic:
        return Step(f"headrace will {_ahead(experiment)} by itself.", _command(experiment, "status", "--watch 10"))
    return Step(f"You can {_ahead(experiment)}.", _command(experiment, "promote", "--why '…'"))


def _ask(experiment: pb.Experiment) -> Step:
    sentence = f"Look at what needs a person. If it is right so, {_ahead(experiment)}."
    return Step(sentence, _command(experiment, "promote", "--consent", "--why '…'"))


def _wait(experiment: pb.Experiment) -> Step:
    return Step("Wait: more pairs or more time may show it.", _command(experiment, "status", "--watch 10"))


def _back(experiment: pb.Experiment) -> Step:
    return Step(
        f"Put version {words.plain(experiment.incumbent)} in charge, and look at where they disagree.",
        _command(experiment, "rollback", "--why '…'"),
    )


_STEPS: Final[Mapping[int, Callable[[pb.Experiment], Step]]] = {
    pb.VERDICT_PASS: _go,
    pb.VERDICT_CONSENT: _ask,
    pb.VERDICT_WAIT: _wait,
    pb.VERDICT_FAIL: _back,
}
