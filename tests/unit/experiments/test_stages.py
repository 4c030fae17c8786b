"""The way of an experiment, and who answers at each point of it."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.errors import InvalidInference, NotPassed
from headrace.experiments import stages
from headrace.v1 import control_pb2
from headrace.v1 import experiments_pb2 as pb

SHARES = (0.01, 0.05, 0.25, 1.0)


def experiment(name: str = "e", stage: pb.Stage = pb.STAGE_DRAFT, **changes: object) -> pb.Experiment:
    plan = pb.Plan(
        share=0.5, noise_share=0.1, timeout_ms=700, max_in_flight_rows=64, output="score", canary_shares=SHARES
    )
    values = {"model": "m", "incumbent": "1", "challenger": "2", "plan": plan, **changes}
    return pb.Experiment(id=name, stage=stage, **values)


def moved(before: pb.Experiment, step: stages.Step) -> pb.Experiment:
    move = pb.Move(from_stage=before.stage, to_stage=step.stage, canary_share=step.canary_share)
    return stages.moved(before, move)


def base(primary: str = "", canary: control_pb2.Canary | None = None) -> control_pb2.TrafficPolicy:
    return control_pb2.TrafficPolicy(model="m", primary_version=primary, canary=canary)


def compared(policy: control_pb2.TrafficPolicy) -> list[tuple[str, str, float]]:
    return [(shadow.incumbent, shadow.challenger, shadow.share) for shadow in policy.shadows]


def test_an_experiment_goes_its_way_share_by_share() -> None:
    one = experiment()
    way = []
    while one.stage not in stages.OVER:
        one = moved(one, stages.following(one))
        way.append((stages.word(one.stage), one.canary_share))

    canary = [("CANARY", share) for share in SHARES]
    assert way == [("SHADOW", 0), *canary, ("PRIMARY", 0), ("FINISHED", 0)]
    with pytest.raises(NotPassed, match="experiment 'e' is FINISHED: it is over"):
        stages.following(one)


def test_a_draft_changes_nothing_and_a_shadow_pins_the_incumbent() -> None:
    assert stages.policy(base(), [experiment()]) == base()

    policy = stages.policy(base(), [experiment(stage=pb.STAGE_SHADOW)])

    assert policy.primary_version == "1"
    assert compared(policy) == [("1", "2", 0.5), ("1", "1", 0.1)]
    first = policy.shadows[0]
    assert (first.experiment_id, first.timeout_ms, first.max_in_flight_rows, first.output) == ("e", 700, 64, "score")


def test_what_was_left_open_stays_with_the_incumbent_and_a_finished_challenger_stays() -> None:
    after = [stages.base_after(base(), experiment(stage=stage)).primary_version for stage in (*stages.ORDER, 6)]

    assert after == ["", "1", "1", "1", "2", "1"]
    assert stages.base_after(base("3"), experiment(stage=pb.STAGE_SHADOW)) == base("3")


def test_a_draft_that_is_given_up_leaves_who_answers_as_it_was() -> None:
    given_up = moved(experiment(), stages.Step(pb.STAGE_ROLLED_BACK))
    own = control_pb2.Canary(version="2", share=0.1)

    for before in (base(), base("3"), base("1", own)):
        assert stages.base_after(before, given_up) == before


def test_a_noise_floor_that_nobody_asked_for_is_not_measured() -> None:
    one = experiment(stage=pb.STAGE_SHADOW)
    one.plan.noise_share = 0

    assert compared(stages.policy(base(), [one])) == [("1", "2", 0.5)]


def test_the_canary_is_salted_with_its_experiment_and_the_comparison_goes_on() -> None:
    policy = stages.policy(base("1"), [experiment(stage=pb.STAGE_CANARY, canary_share=0.05)])

    assert (policy.primary_version, policy.canary) == ("1", control_pb2.Canary(version="2", share=0.05, salt="e"))
    assert compared(policy) == [("1", "2", 0.5), ("1", "1", 0.1)]


def test_a_new_primary_is_compared_with_the_old_one_until_it_is_finished() -> None:
    primary = stages.policy(base("1"), [experiment(stage=pb.STAGE_PRIMARY)])
    finished = stages.policy(base("1"), [experiment(stage=pb.STAGE_FINISHED)])

    assert (primary.primary_version, compared(primary)) == ("2", [("1", "2", 0.5)])
    assert (finished.primary_version, compared(finished)) == ("2", [])


def test_a_rollback_takes_the_challengers_canary_away_and_leaves_foreign() -> None:
    back = [experiment(stage=pb.STAGE_ROLLED_BACK)]
    own, foreign = control_pb2.Canary(version="2", share=0.1), control_pb2.Canary(version="3", share=0.1)

    assert stages.policy(base("", own), back) == base("1")
    assert stages.policy(base("", foreign), back) == base("1", foreign)


def test_several_are_compared_at_once_and_the_one_ahead_decides() -> None:
    others = [experiment(name, pb.STAGE_SHADOW, challenger=name) for name in ("3", "4")]
    ahead = experiment("a", pb.STAGE_CANARY, canary_share=0.25)
    before = base("", control_pb2.Canary(version="9", share=0.5))

    policy = stages.policy(before, [ahead, *others])

    assert (policy.primary_version, policy.canary.version) == ("1", "2")
    assert sorted(shadow.challenger for shadow in policy.shadows) == ["1", "1", "1", "2", "3", "4"]


def test_one_experiment_of_a_model_at_most_is_ahead() -> None:
    ahead = experiment("first", pb.STAGE_CANARY)
    second, elsewhere = experiment("second", pb.STAGE_SHADOW), experiment("third", pb.STAGE_SHADOW, model="n")

    stages.assert_alone(second, [ahead], pb.STAGE_SHADOW)
    stages.assert_alone(elsewhere, [ahead], pb.STAGE_CANARY)
    for stage in (pb.STAGE_CANARY, pb.STAGE_PRIMARY, pb.STAGE_FINISHED):
        with pytest.raises(NotPassed, match="experiment 'first' of 'm' is in CANARY"):
            stages.assert_alone(second, [ahead, second], stage)


def test_an_incumbent_that_is_not_in_charge_has_nothing_to_compare() -> None:
    stages.assert_in_charge(experiment(), base())
    stages.assert_in_charge(experiment(), base("1"))
    with pytest.raises(NotPassed, match="version 3 is in charge of 'm', not 1"):
        stages.assert_in_charge(experiment(), base("3"))


def test_steps_are_left_out_by_force_alone_and_never_backwards() -> None:
    one = experiment(stage=pb.STAGE_SHADOW)

    assert stages.step(one, pb.STAGE_CANARY, force=False) == (pb.STAGE_CANARY, SHARES[0])
    assert stages.step(one, pb.STAGE_PRIMARY, force=True) == (pb.STAGE_PRIMARY, 0)
    assert stages.step(experiment(), pb.STAGE_CANARY, force=True) == (pb.STAGE_CANARY, SHARES[0])
    with pytest.raises(NotPassed, match="PRIMARY is not the next step of 'e'; `force` leaves steps out"):
        stages.step(one, pb.STAGE_PRIMARY, force=False)
    for behind in (pb.STAGE_DRAFT, pb.STAGE_SHADOW, pb.STAGE_ROLLED_BACK, 99):
        with pytest.raises(InvalidInference, match="does not lie ahead of SHADOW"):
            stages.step(one, behind, force=True)


def test_a_step_is_taken_from_where_it_was_asked_for_or_not_at_all() -> None:
    shadow, canary = experiment(stage=pb.STAGE_SHADOW), experiment(stage=pb.STAGE_CANARY, canary_share=0.05)
    for seen in [(pb.STAGE_UNSPECIFIED, 0), (pb.STAGE_CANARY, 0), (pb.STAGE_CANARY, 0.05)]:
        stages.assert_from(canary, *seen)
    stages.assert_from(shadow, pb.STAGE_SHADOW, 0)

    with pytest.raises(NotPassed, match="experiment 'e' is CANARY 5 % by now, not CANARY 1 %: look at it again"):
        stages.assert_from(canary, pb.STAGE_CANARY, 0.01)
    for seen in [(pb.STAGE_SHADOW, 0), (pb.STAGE_PRIMARY, 0), (99, 0)]:
        with pytest.raises(NotPassed, match="is CANARY 5 % by now"):
            stages.assert_from(canary, *seen)
    with pytest.raises(NotPassed, match="is SHADOW by now, not CANARY"):
        stages.assert_from(shadow, pb.STAGE_CANARY, 0.05)


def gate(verdict: pb.Verdict, *, guardrail: bool = False) -> pb.Gate:
    return pb.Gate(name="flips", verdict=verdict, measured="0.71 %", limit="at most 0.50 %", guardrail=guardrail)


def test_a_refusal_names_every_gate_and_consent_passes_those_for_humans() -> None:
    consent = gate(pb.VERDICT_CONSENT)
    stages.assert_passed([gate(pb.VERDICT_PASS), consent], consent=True)

    with pytest.raises(NotPassed, match=r"^flips: 0.71 %, asked: at most 0.50 % \(CONSENT\)$"):
        stages.assert_passed([gate(pb.VERDICT_PASS), consent], consent=False)
    with pytest.raises(NotPassed, match=r"\(WAIT\); .*\(FAIL\)$"):
        stages.assert_passed([gate(pb.VERDICT_WAIT), gate(pb.VERDICT_FAIL)], consent=True)


def test_an_experiment_moves_by_itself_where_its_plan_says_so_and_back_in_any_case() -> None:
    passed, breach = [gate(pb.VERDICT_PASS)], [gate(pb.VERDICT_FAIL, guardrail=True)]
    shadow, canary = experiment(stage=pb.STAGE_SHADOW), experiment(stage=pb.STAGE_CANARY, canary_share=1)
    primary = experiment(stage=pb.STAGE_PRIMARY)

    assert stages.automatic(shadow, passed) is None
    assert stages.automatic(canary, breach) == (pb.STAGE_ROLLED_BACK, 0)
    for one in (shadow, canary, primary):
        one.plan.automatic = True
    assert stages.automatic(shadow, passed) == (pb.STAGE_CANARY, SHARES[0])
    assert stages.automatic(canary, passed) == (pb.STAGE_PRIMARY, 0)
    assert stages.automatic(primary, passed) is None  # when the old version may go is for people to say
    assert stages.automatic(primary, breach) == (pb.STAGE_ROLLED_BACK, 0)
    assert stages.automatic(shadow, breach) is None  # its challenger answers nobody
    assert stages.automatic(shadow, []) is None
    assert stages.automatic(shadow, [gate(pb.VERDICT_CONSENT)]) is None


class Way(RuleBasedStateMachine):
    """Experiments of one model, moved at will: what holds of who answers, whatever was done."""

    def __init__(self) -> None:
        super().__init__()
        self.base = base()
        self.all: dict[str, pb.Experiment] = {}

    def live(self) -> list[pb.Experiment]:
        return [one for one in self.all.values() if one.stage in stages.LIVE]

    def put(self, after: pb.Experiment) -> None:
        self.all[after.id] = after
        self.base = stages.base_after(self.base, after)

    @rule(versions=st.permutations("1234"))
    def draft(self, versions: list[str]) -> None:
        name = f"e{len(self.all)}"
        self.all[name] = experiment(name, incumbent=versions[0], challenger=versions[1])

    @precondition(lambda self: self.all)
    @rule(data=st.data(), stage=st.sampled_from([pb.STAGE_UNSPECIFIED, *stages.ORDER]), force=st.booleans())
    def promote(self, data: st.DataObject, stage: pb.Stage, force: bool) -> None:  # noqa: FBT001  hypothesis hands it over
        one = data.draw(st.sampled_from(list(self.all.values())))
        try:
            step = stages.step(one, stage, force=force)
            others = [other for other in self.live() if other.id != one.id]
            stages.assert_in_charge(one, stages.policy(self.base, others))
            stages.assert_alone(one, self.all.values(), step.stage)
        except (NotPassed, InvalidInference):
            return
        assert stages.ORDER.index(step.stage) >= stages.ORDER.index(one.stage)
        assert step.canary_share > one.canary_share or step.stage != pb.STAGE_CANARY
        self.put(moved(one, step))

    @precondition(lambda self: any(one.stage not in stages.OVER for one in self.all.values()))
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from([one for one in self.all.values() if one.stage not in stages.OVER]))
        was_in_charge = self.base.primary_version in ("", one.incumbent)
        before = stages.policy(self.base, self.live())
        self.put(moved(one, stages.Step(pb.STAGE_ROLLED_BACK)))
        policy = stages.policy(self.base, self.live())
        assert was_in_charge or one.stage not in stages.AHEAD
        assert policy == before or one.stage != pb.STAGE_DRAFT
        if one.stage in stages.AHEAD:
            assert policy.primary_version == one.incumbent
            assert not policy.HasField("canary")
        assert one.id not in {shadow.experiment_id for shadow in policy.shadows}

    @invariant()
    def one_version_is_in_charge(self) -> None:
        policy = stages.policy(self.base, self.live())
        ahead = [one for one in self.live() if one.stage in stages.AHEAD]
        assert len(ahead) <= 1
        assert bool(policy.primary_version) or not self.live()
        assert policy.HasField("canary") == any(one.stage == pb.STAGE_CANARY for one in ahead)
        for one in ahead:
            assert policy.primary_version == (one.challenger if one.stage == pb.STAGE_PRIMARY else one.incumbent)

    @invariant()
    def every_live_experiment_is_compared_and_nothing_else(self) -> None:
        policy = stages.policy(self.base, self.live())
        assert {shadow.experiment_id for shadow in policy.shadows} == {one.id for one in self.live()}

    @invariant()
    def the_order_of_experiments_says_nothing(self) -> None:
        assert stages.policy(self.base, self.live()) == stages.policy(self.base, reversed(self.live()))


Way.TestCase.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
TestWay = Way.TestCase
