"""Every experiment of this control, and who answers because of them: read from the ledger, moved, written back.

Each method is one act, whole or not at all, on the ledger's thread. Knows neither gRPC nor replicas: whoever calls says
which versions there are.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np

from headrace.control import drafting, labels, telling
from headrace.control.discovery import Versions
from headrace.control.evidence import Evidence, Means
from headrace.control.keeping import SAMPLE_ROWS
from headrace.control.labels import Labels
from headrace.control.ledger import Ledger
from headrace.control.traffic import Policies, Reason
from headrace.errors import Conflict, HeadraceError, NotPassed, NotServing, UnknownExperiment
from headrace.experiments import gates, stages
from headrace.v1 import control_pb2
from headrace.v1 import experiments_pb2 as pb

log = logging.getLogger(__name__)

ITSELF: Final = "headrace"
"""Who makes the automatic moves."""
GONE_US: Final = 10_000_000
"""A challenger that answers payments may be without a replica for so long: one that dies is replaced meanwhile."""


class Trials:
    """All experiments.

    `wall_us`: microseconds since 1970, by which moves are dated and silences measured. `cuts`: thresholds of the output
    `score`, where a plan gives none.
    """

    def __init__(
        self,
        ledger: Ledger,
        wall_us: Callable[[], int],
        cuts: Sequence[float],
        random: np.random.Generator | None = None,
        sample_rows: int = SAMPLE_ROWS,
    ) -> None:
        self._ledger = ledger
        self.wall_us = wall_us
        self._cuts = cuts
        self._means = Means(ledger, random or np.random.default_rng(), wall_us(), sample_rows)
        self._experiments = {experiment.id: experiment for experiment in ledger.experiments()}
        self._policies = Policies(ledger, wall_us)
        self._evidence: dict[str, Evidence] = {}
        self._labels: dict[str, Labels] = {}
        self._looked: dict[str, int] = {}
        self._gone: dict[str, int] = {}
        """Since when the challenger of an experiment has had no replica that is ready."""
        self._stranded: set[str] = set()
        """Experiments whose rollback waits for the incumbent: it is told once."""
        self._outcomes_kept: int | None = None
        """None = to be counted."""
        self.pairs = 0
        """Those that were counted since the start, the noise floor's too."""
        self._unwritten: list[Callable[[], None]] = []
        """Rollbacks that are in force and not in the ledger: it could not be written then."""

    # Asking ---------------------------------------------------------------------------------------------------------

    def policies(self) -> dict[str, control_pb2.TrafficPolicy]:
        """Who answers, by model."""
        return self._policies.all()

    def policy(self, model: str) -> control_pb2.TrafficPolicy:
        return self._policies.of(model).policy

    def find(self, experiment_id: str) -> pb.Experiment:
        """Raises: UnknownExperiment."""
        found = self._experiments.get(experiment_id)
        if found is None:
            raise UnknownExperiment(f"there is no experiment '{experiment_id}'")
        return found

    def all(self, model: str = "") -> list[pb.Experiment]:
        """The newest first, of one model or of all. From any thread: what comes meanwhile may be missing."""
        return [one for one in reversed(list(self._experiments.values())) if model in ("", one.model)]

    def live(self, model: str = "") -> list[pb.Experiment]:
        return [one for one in self.all(model) if one.stage in stages.LIVE]

    def report(self, experiment_id: str) -> pb.Report:
        """Everything that is known now. Raises: UnknownExperiment, NotServing."""
        return self._report(self.find(experiment_id), self.wall_us())

    # Moving ---------------------------------------------------------------------------------------------------------

    def begin(self, request: pb.CreateExperimentRequest, who: str, versions: Versions) -> pb.Experiment:
        """Enter an experiment in the stage DRAFT, or SHADOW where it shall start.

        Raises: Conflict when its id is taken; UnknownModel, InvalidInference naming the field; NotPassed when it can't
        start now, and nothing is entered; NotServing.
        """
        if request.id in self._experiments:
            raise Conflict(f"there is an experiment '{request.id}' already")
        experiment = drafting.drafted(request, versions, self.policy(request.model), self._cuts)
        experiment.id = experiment.id or drafting.named(experiment, self._experiments.values())
        if request.start:
            self._assert_may(experiment, stages.Step(pb.STAGE_SHADOW), versions)
        now_us = self.wall_us()
        reason = Reason(who, request.why)
        drafted = stages.moved(experiment, _move(pb.STAGE_UNSPECIFIED, stages.Step(pb.STAGE_DRAFT), reason, now_us))
        if request.start:
            return self._go(drafted, stages.Step(pb.STAGE_SHADOW), reason, None)
        with self._ledger.transaction(durable=True):
            self._enter(drafted, 0, now_us)
        self._experiments[drafted.id] = drafted
        return drafted

    def promote(self, request: pb.PromoteRequest, who: str, versions: Versions) -> pb.Experiment:
        """One step on, or to the stage asked for.

        Raises: NotPassed naming the gates or whatever else is in the way; UnknownExperiment; NotServing.
        """
        experiment = self.find(request.id)
        stages.assert_from(experiment, request.from_stage, request.from_share)
        step = stages.step(experiment, request.to_stage, force=request.force)
        self._assert_may(experiment, step, versions)
        report = self._report(experiment, self.wall_us())
        if experiment.stage != pb.STAGE_DRAFT and not request.force:
            stages.assert_passed(report.gates, consent=request.consent)
        why = f"forced: {request.why}" if request.force else request.why
        return self._go(experiment, step, Reason(who, why), report)

    def roll_back(self, request: pb.RollbackRequest, who: str, versions: Versions) -> pb.Experiment:
        """The incumbent is in charge again. Asked twice, it is done once.

        Raises: UnknownExperiment; NotPassed after FINISHED, and where nobody would answer then; NotServing when the
        ledger could not be written: it is rolled back all the same, and written down as soon as that is possible.
        """
        experiment, step = self.find(request.id), stages.Step(pb.STAGE_ROLLED_BACK)
        if experiment.stage == pb.STAGE_ROLLED_BACK:
            return experiment
        stages.following(experiment)
        if not request.force:
            self._assert_may(experiment, step, versions)
        reason = Reason(who, f"forced: {request.why}" if request.force else request.why)
        return self._go(experiment, step, reason, self._figures_if_any(experiment))

    def set_traffic(self, base: control_pb2.TrafficPolicy, reason: Reason) -> control_pb2.TrafficPolicy:
        """Say who answers. Raises: NotPassed while an experiment decides; NotServing."""
        if live := self.live(base.model):
            raise NotPassed(
                f"experiment '{live[0].id}' decides who answers for '{base.model}': promote it or roll it back"
            )
        return self._policies.set(base, reason)

    def declare(self, bases: Iterable[control_pb2.TrafficPolicy]) -> None:
        """Take what the settings say of each model. Raises: NotServing when the ledger can't be read."""
        for base in bases:
            self._policies.declare(base, self.live(base.model))

    # Hearing --------------------------------------------------------------------------------------------------------

    def record(self, requests: Sequence[pb.RecordPairsRequest]) -> list[HeadraceError | None]:
        """Count messages in one transaction: for each, what was wrong with it, or None.

        A wrong message is not counted and disturbs no other. Raises: NotServing when none was counted.
        """
        now_us = self.wall_us()
        errors = [self._error(request, now_us) for request in requests]
        taken = [request for request, error in zip(requests, errors, strict=True) if error is None]
        touched = {request.experiment_id for request in taken}
        try:
            with self._ledger.transaction():
                pairs = sum(self._evidence_of(request.experiment_id).take(request, now_us) for request in taken)
                for experiment_id in touched:
                    self._evidence_of(experiment_id).write_sums()
        except BaseException:
            for experiment_id in touched:  # it has counted what the ledger has not
                self._evidence.pop(experiment_id, None)
            raise
        self.pairs += pairs
        return errors

    def record_outcomes(self, chunk: Sequence[pb.Outcome]) -> int:
        """Keep outcomes that were checked; how many belong to a sampled pair. Raises: NotServing."""
        with self._ledger.transaction():
            matched, kept = labels.record(self._ledger, chunk, self.wall_us(), self._outcomes_kept)
        self._outcomes_kept = kept
        for known in self._labels.values():
            known.stale = known.stale or matched > 0
        return matched

    # Looking --------------------------------------------------------------------------------------------------------

    def look(self, experiment_id: str, versions: Versions) -> pb.Experiment | None:
        """Mark the timeline and take the step that an experiment takes by itself: the experiment after it, if any.

        Raises: UnknownExperiment, NotServing.
        """
        experiment, now_us = self.find(experiment_id), self.wall_us()
        if self._is_gone(experiment, versions, now_us):
            why = f"version {experiment.challenger} has had no replica for {GONE_US // 1_000_000} s"
            back = stages.Step(pb.STAGE_ROLLED_BACK)
            return self._go(experiment, back, Reason(ITSELF, why), self._figures_if_any(experiment))
        evidence = self._evidence_of(experiment_id)
        due = evidence.timeline.due(now_us)
        moves_itself = experiment.plan.automatic or experiment.stage != pb.STAGE_SHADOW
        changed = self._looked.get(experiment_id) != evidence.changes
        if experiment.stage not in stages.LIVE or not (due or (moves_itself and changed)):
            return None
        self._looked[experiment_id] = evidence.changes
        report = self._report(experiment, now_us)
        step = self._due_step(experiment, report.gates, versions)
        if step is None:
            if due:
                self._mark(evidence, report, now_us)
            return None
        failing = [gate for gate in report.gates if gate.guardrail and gate.verdict == pb.VERDICT_FAIL]
        deciding = failing if step.stage == pb.STAGE_ROLLED_BACK else report.gates
        return self._go(experiment, step, Reason(ITSELF, "; ".join(map(stages.sentence, deciding))), report)

    def write_nothing(self) -> None:
        """Find out whether the ledger takes a write. Raises: NotServing."""
        self._ledger.write_nothing()

    def catch_up(self) -> None:
        """Write down the rollbacks that could not be written. Raises: NotServing."""
        while self._unwritten:
            self._unwritten[0]()
            del self._unwritten[0]

    def keep_house(self) -> None:
        """Forget what is too old. Raises: NotServing."""
        now_us = self.wall_us()
        self._outcomes_kept = None
        try:
            with self._ledger.transaction():
                labels.forget(self._ledger, now_us)
                for evidence in self._evidence.values():
                    evidence.forget(now_us)
        except NotServing:
            self._evidence.clear()
            raise

    def labels_of(self, experiment_id: str) -> Labels:
        """What is known of an experiment's outcomes; whoever calls computes anew what is due."""
        return self._labels.setdefault(experiment_id, Labels())

    def matured(self, experiment_id: str) -> labels.Matured | None:
        """The sampled pairs whose outcome is known. None: no outcome of any has come. Raises: NotServing."""
        experiment = self.find(experiment_id)
        return labels.matured(self._ledger, experiment, self.wall_us())

    # Inside ---------------------------------------------------------------------------------------------------------

    def _due_step(self, experiment: pb.Experiment, found: Sequence[pb.Gate], versions: Versions) -> stages.Step | None:
        """What an experiment does by itself now, if anything."""
        step = stages.automatic(experiment, found)
        if step is None:
            return None
        try:
            self._assert_may(experiment, step, versions)
        except NotPassed as error:
            if step.stage == pb.STAGE_ROLLED_BACK:
                self._put_off(experiment.id, error)
            return None
        return step

    def _is_gone(self, experiment: pb.Experiment, versions: Versions, now_us: int) -> bool:
        """Payments are the challenger's to answer, it has been away for too long, and the incumbent is there.

        Gateways can only tell of requests that had somewhere to go.
        """
        ready = {name for name, version in versions.items() if version.ready}
        if experiment.stage not in (pb.STAGE_CANARY, pb.STAGE_PRIMARY) or experiment.challenger in ready:
            self._gone.pop(experiment.id, None)
            return False
        since_us = self._gone.setdefault(experiment.id, now_us)
        return now_us - since_us >= GONE_US and experiment.incumbent in ready

    def _put_off(self, experiment_id: str, error: NotPassed) -> None:
        """A rollback that would leave nobody to answer is told once, and tried at every look."""
        if experiment_id not in self._stranded:
            log.error("experiment '%s' has to be rolled back, and is not yet: %s", experiment_id, error)
        self._stranded.add(experiment_id)
        self._looked.pop(experiment_id, None)

    def _assert_may(self, experiment: pb.Experiment, step: stages.Step, versions: Versions) -> None:
        """Raises: NotPassed when something beside the gates is in the way."""
        if step.stage == pb.STAGE_ROLLED_BACK:
            stages.assert_somebody_answers(experiment, {name for name, version in versions.items() if version.ready})
            return
        others = [other for other in self.live(experiment.model) if other.id != experiment.id]
        stages.assert_in_charge(experiment, stages.policy(self._policies.of(experiment.model).base, others))
        stages.assert_alone(experiment, self._experiments.values(), step.stage)
        challenger = versions.get(experiment.challenger)
        if challenger is None or not challenger.ready:
            raise NotPassed(f"version {experiment.challenger} of '{experiment.model}' is not ready")

    def _go(
        self, experiment: pb.Experiment, step: stages.Step, reason: Reason, report: pb.Report | None
    ) -> pb.Experiment:
        """Make a move: in the ledger first, then in force. A rollback is in force whatever the ledger says.

        An experiment that is not known yet is entered with it.
        """
        now_us = self.wall_us()
        move = _move(experiment.stage, step, reason, now_us, report)
        after = stages.moved(experiment, move)
        base = stages.base_after(self._policies.of(experiment.model).base, after)
        live = [other for other in self.live(experiment.model) if other.id != experiment.id]
        traffic = self._policies.following(base, live if after.stage in stages.OVER else [*live, after])
        entered = len(experiment.moves) if experiment.id in self._experiments else 0

        def write() -> None:
            with self._ledger.transaction(durable=True):
                self._enter(after, entered, now_us)
                self._ledger.add_traffic(traffic, now_us, *reason)

        problem = self._try(write, insist=step.stage == pb.STAGE_ROLLED_BACK)
        self._experiments[after.id] = after
        self._policies.put(traffic)
        self._turn(after, report, now_us)
        log.warning("experiment '%s': %s %g by %s: %s", after.id, stages.word(after.stage), after.canary_share, *reason)
        if problem is not None:
            raise NotServing(f"'{after.id}' is rolled back, and forgotten if control restarts now: {problem}")
        return after

    def _enter(self, experiment: pb.Experiment, since: int, now_us: int) -> None:
        """Write an experiment and its moves from number `since` on, in the caller's transaction."""
        self._ledger.put_experiment(experiment, now_us)
        for number, move in enumerate(experiment.moves[since:], since):
            self._ledger.add_move(experiment.id, number, move)

    def _try(self, write: Callable[[], None], *, insist: bool) -> NotServing | None:
        """Write, behind whatever waits to be written. With `insist`, what fails is put off, and told."""
        try:
            self.catch_up()
            write()
        except NotServing as error:
            if not insist:
                raise
            self._unwritten.append(write)
            return error
        return None

    def _turn(self, after: pb.Experiment, report: pb.Report | None, now_us: int) -> None:
        """Begin to count the next stage; what is not in memory begins by itself when it is read."""
        evidence = self._evidence.get(after.id)
        if evidence is None:
            return
        evidence.turn()
        with contextlib.suppress(NotServing):  # a point of the timeline is not worth a move
            if report is not None:
                self._mark(evidence, report, now_us, after.stage)

    def _mark(self, evidence: Evidence, report: pb.Report, now_us: int, moved_to: pb.Stage | None = None) -> None:
        stage = report.experiment.stage if moved_to is None else moved_to
        with self._ledger.transaction():
            evidence.timeline.mark(report.figures, stage, now_us, moved=moved_to is not None)

    def _error(self, request: pb.RecordPairsRequest, now_us: int) -> HeadraceError | None:
        try:
            self.find(request.experiment_id)
            telling.check(request, now_us)
            self._evidence_of(request.experiment_id).assert_next(request.gateway_id, request.sequence)
        except HeadraceError as error:
            return error
        return None

    def _figures_if_any(self, experiment: pb.Experiment) -> pb.Report | None:
        """For a rollback: one that can't be measured is made without figures."""
        try:
            return self._report(experiment, self.wall_us())
        except Exception:  # whatever is wrong with the figures must not keep a bad version in charge
            log.exception("experiment '%s' is rolled back without figures", experiment.id)
            return None

    def _report(self, experiment: pb.Experiment, now_us: int) -> pb.Report:
        known = self.labels_of(experiment.id)
        found = self._evidence_of(experiment.id).report(experiment, known.figures, now_us)
        if found.gates and not known.known and (gate := labels.awaited(self._ledger)):
            found.gates.append(gate)
            found.verdict = gates.verdict(found.gates)
        return found

    def _evidence_of(self, experiment_id: str) -> Evidence:
        found = self._evidence.get(experiment_id)
        if found is None:
            found = self._evidence[experiment_id] = Evidence(self._means, self.find(experiment_id))
        return found


def bare(experiment: pb.Experiment) -> pb.Experiment:
    """An experiment whose moves have no figures: for lists."""
    found = pb.Experiment()
    found.CopyFrom(experiment)
    for move in found.moves:
        move.ClearField("figures")
    return found


def _move(
    from_stage: pb.Stage, step: stages.Step, reason: Reason, now_us: int, report: pb.Report | None = None
) -> pb.Move:
    move = pb.Move(
        who=reason.who, why=reason.why, from_stage=from_stage, to_stage=step.stage, canary_share=step.canary_share
    )
    move.at.FromMicroseconds(now_us)
    if report is not None:
        move.figures.CopyFrom(report)
        move.figures.ClearField("experiment")  # its moves have figures of their own
        move.figures.ClearField("timeline")
    return move
