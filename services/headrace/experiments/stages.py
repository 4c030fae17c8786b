"""The way of an experiment, stage by stage, and the traffic that follows. Pure: it decides, control writes it down.

One experiment of a model at most is past SHADOW, because one version at most can be on its way into its place.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Final, NamedTuple

from headrace.errors import InvalidInference, NotPassed
from headrace.experiments import gates as gates_
from headrace.v1 import control_pb2
from headrace.v1 import experiments_pb2 as pb

LIVE: Final = (pb.STAGE_SHADOW, pb.STAGE_CANARY, pb.STAGE_PRIMARY)
"""Something is compared."""
AHEAD: Final = (pb.STAGE_CANARY, pb.STAGE_PRIMARY)
"""The challenger answers callers."""
OVER: Final = (pb.STAGE_FINISHED, pb.STAGE_ROLLED_BACK)
ORDER: Final = (pb.STAGE_DRAFT, pb.STAGE_SHADOW, pb.STAGE_CANARY, pb.STAGE_PRIMARY, pb.STAGE_FINISHED)


class Step(NamedTuple):
    """Where an experiment goes."""

    stage: pb.Stage
    canary_share: float = 0.0
    """Of the entities, 0 to 1; 0 outside of CANARY."""


def word(stage: pb.Stage) -> str:
    """A stage as people write it: `CANARY`; its number where only a newer headrace has a word for it."""
    return pb.Stage.Name(stage).removeprefix("STAGE_") if stage in pb.Stage.values() else str(stage)


def _place(at: Step) -> str:
    return f"{word(at.stage)} {100 * at.canary_share:g} %" if at.canary_share else word(at.stage)


def following(experiment: pb.Experiment) -> Step:
    """The next step. Raises: NotPassed when there is none: the experiment is over."""
    stage, shares = experiment.stage, experiment.plan.canary_shares
    if stage == pb.STAGE_DRAFT:
        return Step(pb.STAGE_SHADOW)
    if stage == pb.STAGE_SHADOW:
        return Step(pb.STAGE_CANARY, shares[0])
    if stage == pb.STAGE_CANARY:
        larger = [share for share in shares if share > experiment.canary_share]
        return Step(pb.STAGE_CANARY, larger[0]) if larger else Step(pb.STAGE_PRIMARY)
    if stage == pb.STAGE_PRIMARY:
        return Step(pb.STAGE_FINISHED)
    raise NotPassed(f"experiment '{experiment.id}' is {word(stage)}: it is over")


def step(experiment: pb.Experiment, to_stage: pb.Stage, *, force: bool) -> Step:
    """The step that leads to `to_stage`, or the next one where it is STAGE_UNSPECIFIED.

    Raises: NotPassed when the experiment is over, or when steps are left out without `force`; InvalidInference when
    `to_stage` does not lie ahead.
    """
    following_step = following(experiment)
    if to_stage in (pb.STAGE_UNSPECIFIED, following_step.stage):
        return following_step
    if to_stage not in ORDER or ORDER.index(to_stage) <= ORDER.index(experiment.stage):
        raise InvalidInference(f"to_stage: {word(to_stage)} does not lie ahead of {word(experiment.stage)}")
    if not force:
        raise NotPassed(f"{word(to_stage)} is not the next step of '{experiment.id}'; `force` leaves steps out")
    return Step(to_stage, experiment.plan.canary_shares[0] if to_stage == pb.STAGE_CANARY else 0.0)


def assert_from(experiment: pb.Experiment, stage: pb.Stage, share: float) -> None:
    """Raises: NotPassed when it does not stand where whoever asks for a step has seen it.

    A step is relative: asked for by two people, or again after an answer that was lost, it would be two.
    """
    seen = Step(stage, (share or experiment.canary_share) if stage == pb.STAGE_CANARY else 0.0)
    now = Step(experiment.stage, experiment.canary_share)
    if stage != pb.STAGE_UNSPECIFIED and seen != now:
        raise NotPassed(f"experiment '{experiment.id}' is {_place(now)} by now, not {_place(seen)}: look at it again")


def assert_alone(experiment: pb.Experiment, others: Iterable[pb.Experiment], to_stage: pb.Stage) -> None:
    """Raises: NotPassed when `to_stage` lies past SHADOW and another experiment of the model is there already."""
    if to_stage not in (*AHEAD, pb.STAGE_FINISHED):
        return
    for other in others:
        if other.id != experiment.id and other.model == experiment.model and other.stage in AHEAD:
            raise NotPassed(f"experiment '{other.id}' of '{other.model}' is in {word(other.stage)}; one at a time")


def assert_in_charge(experiment: pb.Experiment, without_it: control_pb2.TrafficPolicy) -> None:
    """Raises: NotPassed when another version than the incumbent would be in charge without this experiment."""
    if without_it.primary_version not in ("", experiment.incumbent):
        raise NotPassed(
            f"version {without_it.primary_version} is in charge of '{experiment.model}', not {experiment.incumbent}: "
            "begin an experiment against that one"
        )


def assert_somebody_answers(experiment: pb.Experiment, ready: Container[str]) -> None:
    """Before a rollback. Raises: NotPassed when it takes the challenger's callers to a version that isn't ready."""
    if experiment.stage in AHEAD and experiment.incumbent not in ready:
        raise NotPassed(
            f"version {experiment.incumbent} of '{experiment.model}' is not ready, nobody would answer; "
            "`force` rolls back all the same"
        )


def assert_passed(gates: Sequence[pb.Gate], *, consent: bool) -> None:
    """Raises: NotPassed naming every gate that is in the way; `consent` passes those that ask for a human."""
    passing = {pb.VERDICT_PASS, pb.VERDICT_CONSENT} if consent else {pb.VERDICT_PASS}
    if closed := [gate for gate in gates if gate.verdict not in passing]:
        raise NotPassed("; ".join(sentence(gate) for gate in closed))


def sentence(gate: pb.Gate) -> str:
    """A gate in a ledger or an error: `flips: 0.71 % (0.52 % to 0.97 %), asked: at most 0.50 % (FAIL)`."""
    verdict = pb.Verdict.Name(gate.verdict).removeprefix("VERDICT_")
    return f"{gate.name}: {gate.measured}, asked: {gate.limit} ({verdict})"


def automatic(experiment: pb.Experiment, gates: Sequence[pb.Gate]) -> Step | None:
    """What an experiment does by itself: back when a guardrail is breached, on when all is passed and its plan says so.

    PRIMARY is its last stage of its own accord: how long the incumbent stays at hand is for people to say.
    """
    if experiment.stage in AHEAD and gates_.breached(gates):
        return Step(pb.STAGE_ROLLED_BACK)
    willing = experiment.plan.automatic and experiment.stage in (pb.STAGE_SHADOW, pb.STAGE_CANARY)
    if willing and gates and gates_.verdict(gates) == pb.VERDICT_PASS:
        return following(experiment)
    return None


def moved(experiment: pb.Experiment, move: pb.Move) -> pb.Experiment:
    """The experiment after a move."""
    after = pb.Experiment()
    after.CopyFrom(experiment)
    after.stage, after.canary_share = move.to_stage, move.canary_share
    after.moves.append(move)
    return after


def policy(base: control_pb2.TrafficPolicy, experiments: Iterable[pb.Experiment]) -> control_pb2.TrafficPolicy:
    """Who answers for a model, and what is compared: what was set (`base`), and what its experiments make of that."""
    found = control_pb2.TrafficPolicy()
    found.CopyFrom(base)
    for experiment in sorted(experiments, key=_weight):
        if experiment.stage != pb.STAGE_DRAFT:
            _apply(found, experiment)
    return found


def base_after(base: control_pb2.TrafficPolicy, experiment: pb.Experiment) -> control_pb2.TrafficPolicy:
    """What a move leaves behind as set, whatever becomes of its experiment.

    A primary that was left open is the incumbent from then on: a challenger's higher number must not put it in
    charge, now or after a rollback. A draft that is given up changed nothing and leaves nothing.
    """
    given_up = experiment.stage == pb.STAGE_ROLLED_BACK and _came_from(experiment) == pb.STAGE_DRAFT
    if experiment.stage in OVER and not given_up:
        return policy(base, [experiment])
    found = control_pb2.TrafficPolicy()
    found.CopyFrom(base)
    if experiment.stage in LIVE:
        found.primary_version = base.primary_version or experiment.incumbent
    return found


def _came_from(experiment: pb.Experiment) -> pb.Stage:
    return experiment.moves[-1].from_stage if experiment.moves else pb.STAGE_UNSPECIFIED


def _weight(experiment: pb.Experiment) -> tuple[bool, bool, str]:
    """Whoever is ahead has the last word, before it whoever is over; the ids make the order one."""
    return experiment.stage in AHEAD, experiment.stage in OVER, experiment.id


def _apply(found: control_pb2.TrafficPolicy, experiment: pb.Experiment) -> None:
    found.primary_version = found.primary_version or experiment.incumbent
    if experiment.stage in (pb.STAGE_PRIMARY, pb.STAGE_FINISHED):
        found.primary_version = experiment.challenger
        found.ClearField("canary")
    elif experiment.stage == pb.STAGE_CANARY:
        canary = control_pb2.Canary(version=experiment.challenger, share=experiment.canary_share, salt=experiment.id)
        found.canary.CopyFrom(canary)
    elif experiment.stage == pb.STAGE_ROLLED_BACK and found.canary.version == experiment.challenger:
        found.ClearField("canary")
    if experiment.stage in LIVE:
        found.shadows.extend(_shadows(experiment))


def _shadows(experiment: pb.Experiment) -> list[control_pb2.Shadow]:
    """The comparison, and its noise floor while the incumbent answers anybody."""
    plan = experiment.plan
    pairs = control_pb2.Shadow(
        experiment_id=experiment.id,
        incumbent=experiment.incumbent,
        challenger=experiment.challenger,
        share=plan.share,
        timeout_ms=plan.timeout_ms,
        max_in_flight_rows=plan.max_in_flight_rows,
        output=plan.output,
    )
    if experiment.stage == pb.STAGE_PRIMARY or not plan.noise_share:
        return [pairs]
    noise = control_pb2.Shadow()
    noise.CopyFrom(pairs)
    noise.challenger, noise.share = experiment.incumbent, plan.noise_share
    return [pairs, noise]
