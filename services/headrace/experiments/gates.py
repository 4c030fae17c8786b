"""What must hold before an experiment goes one step on, and what takes a challenger back.

A gate on a rate has three answers, by the rate's confidence sequence: PASS, the whole interval is within the limit;
FAIL, the whole interval is beyond it; WAIT, it lies across. Called at every look; it knows no clock and makes no move.

**What alpha is for.** It is the chance of either error over the whole experiment, at all looks together.

- *Promoted wrongly.* A challenger that is beyond a limit has to get past the gate of that limit, whichever others it
  passes. So each gate passes at alpha; nothing is shared between them. A reference that is itself estimated
  (`_Alpha.reference`) takes a tenth of it, the challenger's interval the rest.
- *Rejected wrongly.* A good challenger can be unlucky at any guardrail, so they share alpha: half of it is for flips,
  in equal parts for the thresholds, a quarter for errors, a quarter for late answers. Three quarters of each are for
  the pairs of the whole experiment, the last for what came since the last move, over as many moves as there are: a
  challenger that breaks in its canary must not hide behind a good past. For the same reason a step out of CANARY or
  PRIMARY is passed on the figures since the last move as well.

**What the noise floor excuses.** The limit of flips is max(max_flip_rate, max_noise_ratio x noise rate), and the noise
rate is estimated from a tenth of the pairs. To PASS, an excuse must be proven: the lower end of the noise's interval
counts, so that few pairs of noise excuse nothing. To FAIL, an excuse must be unlikely: the challenger's lower end must
be beyond max_flip_rate, which alone keeps the promise of alpha for every challenger whose true rate is within it, and
beyond both max_noise_ratio x the lower and 1 x the upper end of the noise's interval *at even odds*. The upper end at
alpha would be the rigorous choice, and a guardrail that never closes: at 1,000 pairs of noise without a flip it is
still half a per cent, and three times that excuses 1.5. So for an incumbent that flips against itself more often than
max_flip_rate, alpha is not proven. Simulated at 0.75 to 3 per cent, a challenger that is the incumbent is failed at
some look in 2 to 7 of 100 experiments of 20,000 pairs.

**What an error is.** Once the challenger answers callers, a trial is a request of a caller, and both sides are held to
what callers were promised: the challenger's failed requests against the incumbent's, of the same stage and so of the
same hours. Pairs would not do. All of them together hide a canary of one in a hundred; whoever answers has a caller's
deadline and whoever is the shadow has not; and the rows of one request fail together. Where the incumbent is hardly
asked any more (a canary of 1, PRIMARY), its requests of the whole experiment stand in.

**What is late** is later than 99 in 100 of the incumbent's answers. In an hour that is slow for everybody, its own
answers are late as well: a canary fails beyond the limit *and* beyond what the incumbent was late, in the same stage.

In SHADOW the challenger has copies only, and a trial is a pair. So is a copy that it was spared because it had failed
batch after batch: all that is sampled meanwhile counts as failed, for it must not be a hole in the challenger's own
verdict. The allowance is the
incumbent's rate on the same pairs or, where that is higher, what it loses beside itself, on either side. The rows of a
request that fails are as many errors there: a FAIL may be one lost request of many rows. It takes nobody back, and goes
as pairs come.

Flips are trials a row everywhere. Labels (a bootstrap), PSI and the time of batches have no such interval: they are no
guardrails, and no part of alpha.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from headrace.experiments.confidence import rate_interval
from headrace.experiments.limits import DEFAULTS, DEMO, filled
from headrace.v1 import experiments_pb2 as pb

__all__ = ["DEFAULTS", "DEMO", "breached", "filled", "judge", "verdict"]

FLIPS: Final = 0.5
ERRORS: Final = 0.25
LATE: Final = 0.25
"""Parts of alpha that the guardrails have for failing."""
WHOLE: Final = 0.75
"""Of each part, for the pairs of the whole experiment."""
EVEN_ODDS: Final = 0.5
LEAST_REQUESTS: Final = 1_000
"""Of callers to the incumbent since the last move, below which those of the whole experiment stand in."""
LEAST_AVERAGE_PRECISION_GAIN: Final = -0.005
LEAST_RECALL_GAIN: Final = -0.01
LEAST_POSITIVES: Final = 50
"""Frauds below which labels are not asked: a handful would block what none at all would not."""
LEAST_SHARE_OF_PAIRS: Final = 0.1
"""Of `min_pairs`, for which `min_hours` may stand in."""

SPARED: Final = "failing"
"""The cause of drops of what was not asked of a version that failed batch after batch."""

_SEVERITY: Final = (pb.VERDICT_PASS, pb.VERDICT_WAIT, pb.VERDICT_CONSENT, pb.VERDICT_FAIL)


def judge(
    experiment: pb.Experiment,
    figures: pb.Figures,
    noise: pb.Figures | None,
    labelled: pb.LabelledFigures | None,
    hours_in_stage: float,
    stage_figures: pb.Figures | None = None,
) -> list[pb.Gate]:
    """The gates of the experiment's next step; none where it leads to SHADOW or there is no further one.

    `stage_figures` are of the pairs since the last move. Without them, all pairs count as such.
    """
    case = _Case(
        experiment=experiment,
        limits=filled(experiment.plan.gates),
        figures=figures,
        noise=noise if noise is not None and noise.pairs else None,
        stage_figures=stage_figures if stage_figures is not None else figures,
        hours=hours_in_stage,
    )
    stage = experiment.stage
    if stage not in (pb.STAGE_SHADOW, pb.STAGE_CANARY, pb.STAGE_PRIMARY):
        return []
    found = [_pairs(case), _coverage(case), _flips(case), _errors(case), _psi(case)]
    if stage == pb.STAGE_SHADOW and case.limits.max_batch_time_ratio:
        found.append(_batch_time(case))
    if stage == pb.STAGE_CANARY:
        found.append(_late(case))
    if labelled is not None and labelled.positives >= LEAST_POSITIVES:
        found.append(_labels(labelled))
    return found


def verdict(gates: Iterable[pb.Gate]) -> pb.Verdict:
    """What they say together: FAIL before CONSENT before WAIT before PASS; PASS of none."""
    return max((gate.verdict for gate in gates), key=_SEVERITY.index, default=pb.VERDICT_PASS)


def breached(gates: Iterable[pb.Gate]) -> list[pb.Gate]:
    """The guardrails that fail. In CANARY or PRIMARY they take the challenger back."""
    return [gate for gate in gates if gate.guardrail and gate.verdict == pb.VERDICT_FAIL]


@dataclass(frozen=True, slots=True)
class _Alpha:
    """How alpha is split: the module's docstring says why."""

    whole: float
    """Of a gate that passes, and of what is shown."""
    challenger: float
    """Of a gate that passes, beside a reference."""
    reference: float


@dataclass(frozen=True, slots=True)
class _Case:
    experiment: pb.Experiment
    limits: pb.Gates
    figures: pb.Figures
    noise: pb.Figures | None
    stage_figures: pb.Figures
    hours: float

    @property
    def alpha(self) -> _Alpha:
        alpha = self.limits.alpha
        return _Alpha(alpha, 0.9 * alpha, 0.1 * alpha)

    def looks(self, part: float) -> list[tuple[pb.Figures, float, str]]:
        """What a guardrail with a part of alpha is held against: figures, alpha, words."""
        alpha = part * self.alpha.whole
        whole = (self.figures, WHOLE * alpha, "")
        if self.experiment.stage == pb.STAGE_SHADOW or self.stage_figures is self.figures:
            return [whole]
        moves = len(self.experiment.plan.canary_shares) + 1
        return [whole, (self.stage_figures, (1 - WHOLE) / moves * alpha, " since the last move")]


def _pairs(case: _Case) -> pb.Gate:
    stage, limits = case.experiment.stage, case.limits
    canary = stage == pb.STAGE_CANARY
    have = case.figures.pairs if stage == pb.STAGE_SHADOW else case.stage_figures.canary_pairs
    least = limits.min_canary_pairs if canary else limits.min_pairs
    by_time = not canary and 0 < limits.min_hours <= case.hours and have >= LEAST_SHARE_OF_PAIRS * least
    what = "pairs" if stage == pb.STAGE_SHADOW else "answers of the challenger"
    limit = f"at least {least:,} {what}"
    if not canary and limits.min_hours:
        limit += f", or {limits.min_hours:g} h and {LEAST_SHARE_OF_PAIRS * least:,.0f}"
    measured = f"{have:,} {what} in {case.hours:.1f} h"
    gate = pb.Gate(name="pairs", verdict=pb.VERDICT_PASS, measured=measured, limit=limit, limit_value=least)
    if have < least and not by_time:
        gate.verdict, gate.remark = pb.VERDICT_WAIT, f"{least - have:,} are missing"
    return gate


def _coverage(case: _Case) -> pb.Gate:
    """A hole is in the evidence and not in the challenger: it never fails, it makes wait until it is small enough."""
    drops = dict(case.figures.drops)
    known = case.figures.pairs + sum(drops.values())
    covered = case.figures.pairs / known if known else 0.0
    gate = pb.Gate(
        name="coverage",
        verdict=pb.VERDICT_PASS,
        measured=f"{_percent(covered)} of {known:,}",
        limit=f"at least {_percent(case.limits.min_coverage)}",
        limit_value=case.limits.min_coverage,
    )
    if covered < case.limits.min_coverage or not known:
        gate.verdict = pb.VERDICT_WAIT
        most = sorted(drops.items(), key=lambda drop: (-drop[1], drop[0]))
        gate.remark = "dropped: " + (", ".join(f"{cause} {n:,}" for cause, n in most) or "nothing, and no pairs")
    return gate


def _flips(case: _Case) -> pb.Gate:
    """The worst of all thresholds."""
    gates = [_flips_at(case, at) for at in range(len(case.figures.flips))]
    rates = [of.rate.events for of in case.figures.flips]
    worst = max(range(len(gates)), key=lambda at: (_SEVERITY.index(gates[at].verdict), rates[at]))
    if len(gates) > 1:
        gates[worst].measured += f" at {case.figures.flips[worst].threshold:g}"
    return gates[worst]


def _flips_at(case: _Case, at: int) -> pb.Gate:
    limits, alpha = case.limits, case.alpha
    noise = case.noise.flips[at].rate if case.noise is not None else None
    proven = limits.max_noise_ratio * _ends(noise, alpha.reference)[0] if noise else 0.0
    low, high = _ends(noise, EVEN_ODDS) if noise else (0.0, 0.0)
    limit, looks = max(limits.max_flip_rate, proven), case.looks(FLIPS / len(case.figures.flips))
    return _guardrail(
        case,
        "flips",
        limit=limit,
        passed=all(_ends(of.flips[at].rate, alpha.challenger)[1] <= limit for of, _, _ in looks),
        breaches=[
            (_ends(of.flips[at].rate, alpha)[0], max(limits.max_flip_rate, limits.max_noise_ratio * low, high), words)
            for of, alpha, words in looks
        ],
        shown=case.figures.flips[at].rate,
    )


def _errors(case: _Case) -> pb.Gate:
    return _errors_of_copies(case) if case.experiment.stage == pb.STAGE_SHADOW else _failures(case)


def _errors_of_copies(case: _Case) -> pb.Gate:
    excess, alpha, noise = case.limits.max_error_excess, case.alpha, case.noise
    shown = _errors_and_spared(case.figures)
    beside_itself = (noise.incumbent_errors, _errors_and_spared(noise)) if noise is not None else ()
    proven = max((_ends(side, alpha.reference)[0] for side in beside_itself), default=0.0)
    likely = max((_ends(side, EVEN_ODDS)[1] for side in beside_itself), default=0.0)
    limit = max(_share(case.figures.incumbent_errors), proven) + excess
    gate = _guardrail(
        case,
        "errors",
        limit=limit,
        passed=_ends(shown, alpha.challenger)[1] <= limit,
        breaches=[
            (
                _ends(_errors_and_spared(of), alpha / 2)[0],
                max(_ends(of.incumbent_errors, alpha / 2)[1], likely) + excess,
                words,
            )
            for of, alpha, words in case.looks(ERRORS)
        ],
        shown=shown,
    )
    if spared := case.figures.drops.get(SPARED, 0):
        gate.remark = "; ".join(filter(None, (gate.remark, f"{spared:,} of them spared after batches that all failed")))
    return gate


def _errors_and_spared(figures: pb.Figures) -> pb.Rate:
    errors, spared = figures.challenger_errors, figures.drops.get(SPARED, 0)
    return pb.Rate(events=errors.events + spared, trials=errors.trials + spared)


def _failures(case: _Case) -> pb.Gate:
    """Of callers' requests, by the newest look alone: a stage is compared with itself."""
    of, alpha, words = case.looks(ERRORS)[-1]
    excess, incumbent = case.limits.max_error_excess, of.incumbent_failures
    if incumbent.trials < LEAST_REQUESTS:
        incumbent = case.figures.incumbent_failures
    limit = _ends(incumbent, case.alpha.reference)[0] + excess
    most = _ends(incumbent, alpha / 2)[1] + excess
    return _guardrail(
        case,
        "errors",
        limit=limit,
        passed=_ends(of.challenger_failures, case.alpha.challenger)[1] <= limit,
        breaches=[(_ends(of.challenger_failures, alpha / 2)[0], most, words)],
        shown=of.challenger_failures,
    )


def _late(case: _Case) -> pb.Gate:
    """Of the same stage, beside the incumbent's own answers; of the whole experiment where none was judged in it.

    At a share of 1 no incumbent answers: its threshold is of the past, and so is what it was late itself.
    """
    looks = case.looks(LATE)
    of, alpha, words = looks[-1] if looks[-1][0].canary_late.trials else looks[0]
    most, own = case.limits.max_late_rate, of.incumbent_late if of.incumbent_late.trials else None
    limit = max(most, _ends(own, case.alpha.reference)[0] if own else 0.0)
    return _guardrail(
        case,
        "late",
        limit=limit,
        passed=_ends(of.canary_late, case.alpha.challenger)[1] <= limit,
        breaches=[
            (_ends(of.canary_late, alpha / 2)[0], max(most, _ends(own, alpha / 2)[1] if own else 0.0), words),
        ],
        shown=of.canary_late,
    )


def _guardrail(
    case: _Case, name: str, *, limit: float, passed: bool, breaches: list[tuple[float, float, str]], shown: pb.Rate
) -> pb.Gate:
    """`breaches`: what the rate is at least, what it may be at most, and of which pairs."""
    low, high = _ends(shown, case.alpha.whole)
    gate = pb.Gate(
        name=name,
        guardrail=True,
        measured=f"{_percent(_share(shown))} ({_percent(low)} to {_percent(high)})",
        limit=f"at most {_percent(limit)}",
        limit_value=limit,
        verdict=pb.VERDICT_PASS if passed else pb.VERDICT_WAIT,
    )
    if not passed:
        gate.remark = "more pairs will tell" if _share(shown) <= limit else "more than is allowed, not yet for sure"
    for least, most, words in breaches:
        if least > most:
            gate.verdict = pb.VERDICT_FAIL
            gate.remark = f"surely more than {_percent(most)}: at least {_percent(least)}{words}"
    return gate


def _psi(case: _Case) -> pb.Gate:
    limits = case.limits
    limit = f"at most {limits.max_psi:g}, with consent {limits.max_psi_with_consent:g}"
    gate = pb.Gate(name="psi", verdict=pb.VERDICT_WAIT, measured="-", limit=limit, limit_value=limits.max_psi)
    if not case.figures.HasField("psi"):
        gate.remark = "too few pairs to say"
        return gate
    psi = case.figures.psi
    gate.verdict, gate.measured = pb.VERDICT_PASS, f"{psi:.3f}"
    if psi > limits.max_psi:
        gate.verdict, gate.remark = pb.VERDICT_CONSENT, "the challenger's values lie elsewhere: look whether they may"
    if psi > limits.max_psi_with_consent:
        gate.verdict, gate.remark = pb.VERDICT_FAIL, "the challenger's values lie elsewhere altogether"
    return gate


def _batch_time(case: _Case) -> pb.Gate:
    most = case.limits.max_batch_time_ratio
    limit = f"at most {most:g} times the incumbent's"
    gate = pb.Gate(name="batch_time", verdict=pb.VERDICT_WAIT, measured="-", limit=limit, limit_value=most)
    if not case.figures.HasField("batch_time_ratio"):
        gate.remark = "too few batches of equal tokens"
        return gate
    ratio = case.figures.batch_time_ratio
    gate.verdict, gate.measured = pb.VERDICT_PASS, f"{ratio:.2f} times"
    if ratio > most:
        gate.verdict, gate.remark = pb.VERDICT_FAIL, "its batches take a replica too long"
    return gate


def _labels(labelled: pb.LabelledFigures) -> pb.Gate:
    gains = (
        ("average precision", labelled.average_precision_gain, LEAST_AVERAGE_PRECISION_GAIN),
        ("recall", labelled.recall_gain, LEAST_RECALL_GAIN),
    )
    gate = pb.Gate(
        name="labels",
        verdict=pb.VERDICT_PASS,
        measured=", ".join(f"{name} {gain.lower:+.4f} to {gain.upper:+.4f}" for name, gain, _ in gains),
        limit=", ".join(f"{name} {least:+g} at least" for name, _, least in gains),
    )
    if not labelled.HasField("average_precision_gain"):
        gate.verdict, gate.measured, gate.remark = pb.VERDICT_WAIT, "-", "nothing but fraud so far"
        return gate
    if any(gain.lower < least for _, gain, least in gains):
        gate.verdict, gate.remark = pb.VERDICT_WAIT, "more outcomes will tell"
    if worse := [name for name, gain, least in gains if gain.upper < least]:
        gate.verdict, gate.remark = pb.VERDICT_FAIL, f"it finds less fraud: {', '.join(worse)}"
    return gate


def _ends(rate: pb.Rate, alpha: float) -> tuple[float, float]:
    return rate_interval(rate.events, rate.trials, alpha)


def _share(rate: pb.Rate) -> float:
    return rate.events / rate.trials if rate.trials else 0.0


def _percent(share: float) -> str:
    """Two decimals, three where that would leave one figure."""
    return f"{100 * share:.{3 if 0 < share < 0.001 else 2}f} %"
