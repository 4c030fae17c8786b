from __future__ import annotations

from math import nan
from typing import Any

import pytest
from tests.pairs import experiment, figures, rate, requests

from headrace.experiments import gates
from headrace.experiments.gates import DEFAULTS, DEMO
from headrace.v1 import experiments_pb2 as pb

PASS, WAIT, CONSENT, FAIL = pb.VERDICT_PASS, pb.VERDICT_WAIT, pb.VERDICT_CONSENT, pb.VERDICT_FAIL
LONG = 50_000


def judged(name: str, of: pb.Figures, noise: pb.Figures | None = None, **case: Any) -> pb.Gate:
    """One gate of a challenger in SHADOW, or as `case` says."""
    plain: dict[str, Any] = {"stage": pb.STAGE_SHADOW, "limits": None, "hours": 1.0, "labelled": None, "since": None}
    plain |= case
    found = gates.judge(
        experiment(plain["stage"], plain["limits"]), of, noise, plain["labelled"], plain["hours"], plain["since"]
    )
    return {gate.name: gate for gate in found}[name]


def test_a_healthy_challenger_passes_every_gate_of_its_stage() -> None:
    expected = {
        pb.STAGE_SHADOW: ["pairs", "coverage", "flips", "errors", "psi", "batch_time"],
        pb.STAGE_CANARY: ["pairs", "coverage", "flips", "errors", "psi", "late"],
        pb.STAGE_PRIMARY: ["pairs", "coverage", "flips", "errors", "psi"],
    }
    healthy = figures(LONG, 50, canary_late=rate(500, LONG))
    for stage, names in expected.items():
        found = gates.judge(experiment(stage), healthy, None, None, 1.0)

        assert [gate.name for gate in found] == names
        assert gates.verdict(found) == PASS
        assert gates.breached(found) == []


@pytest.mark.parametrize("stage", [pb.STAGE_DRAFT, pb.STAGE_FINISHED, pb.STAGE_ROLLED_BACK])
def test_a_step_that_nothing_is_asked_for_has_no_gates(stage: pb.Stage) -> None:
    found = gates.judge(experiment(stage), figures(0), None, None, 0.0)

    assert found == []
    assert gates.verdict(found) == PASS


@pytest.mark.parametrize(
    ("pairs", "hours", "expected"),
    [(50_000, 0.1, PASS), (49_999, 23.9, WAIT), (49_999, 24, PASS), (5_000, 24, PASS), (4_999, 240, WAIT)],
)
def test_a_day_stands_in_for_pairs_where_a_tenth_of_them_is_there(pairs: int, hours: float, expected: int) -> None:
    assert judged("pairs", figures(pairs), hours=hours).verdict == expected


def test_no_time_stands_in_for_the_demos_pairs() -> None:
    assert judged("pairs", figures(4_999), limits=DEMO, hours=1e6).verdict == WAIT
    assert judged("pairs", figures(5_000), limits=DEMO).verdict == PASS


def test_a_step_of_the_canary_asks_for_answers_of_the_challenger_since_the_last() -> None:
    whole, few, enough = (figures(n, canary_pairs=n) for n in (LONG, 1_999, 2_000))

    assert judged("pairs", whole, stage=pb.STAGE_CANARY, since=few, hours=1e6).verdict == WAIT
    assert judged("pairs", whole, stage=pb.STAGE_CANARY, since=enough).verdict == PASS


@pytest.mark.parametrize(("flips", "pairs", "expected"), [(11, 5_000, PASS), (12, 5_000, WAIT), (60, 5_000, FAIL)])
def test_flips_pass_within_the_limit_fail_beyond_it_and_wait_across_it(flips: int, pairs: int, expected: int) -> None:
    gate = judged("flips", figures(pairs, flips))

    assert gate.verdict == expected
    assert gate.guardrail


def test_a_gate_says_what_it_measured_as_a_person_reads_it() -> None:
    gate = judged("flips", figures(5_000, 11))

    assert (gate.measured, gate.limit, gate.remark) == ("0.22 % (0.073 % to 0.49 %)", "at most 0.50 %", "")
    assert "surely more than 0.50 %: at least 0." in judged("flips", figures(5_000, 60)).remark


def test_a_limit_is_told_as_a_number_as_well_the_one_that_noise_has_raised() -> None:
    of, noise = figures(LONG, 400, canary_late=rate(20, 2_000)), figures(20_000, 100)
    found = gates.judge(experiment(pb.STAGE_CANARY), of, noise, None, 1.0)
    values = {gate.name: round(gate.limit_value, 4) for gate in found}

    assert 0.005 < values.pop("flips") < 0.015
    assert values == {"pairs": 2_000, "coverage": 0.99, "errors": 0.001, "psi": 0.1, "late": 0.03}
    assert judged("batch_time", figures(LONG)).limit_value == 1.1


def test_noise_excuses_what_it_is_proven_to_be_and_no_more() -> None:
    """0.8 per cent of flips beside a noise of 0.5 per cent, known from 20,000 pairs, then from 200."""
    assert judged("flips", figures(LONG, 400)).verdict == FAIL
    assert judged("flips", figures(LONG, 400), figures(20_000, 100)).verdict == PASS
    assert judged("flips", figures(LONG, 400), figures(200, 1)).verdict == WAIT


def test_a_noise_of_few_pairs_cannot_excuse_a_bad_challenger() -> None:
    """Three flips of five: nobody would believe it, and nothing passes by it."""
    assert judged("flips", figures(5_000, 100), figures(5, 3)).verdict == WAIT
    assert judged("flips", figures(5_000, 100), figures(100, 0)).verdict == FAIL
    assert judged("flips", figures(5_000, 100), figures(0)).verdict == FAIL


def test_the_worst_threshold_decides() -> None:
    of = figures(LONG, 10)
    of.flips.append(pb.Flips(threshold=90, rate=rate(900, LONG)))
    gate = judged("flips", of)

    assert gate.verdict == FAIL
    assert gate.measured.endswith("at 90")


@pytest.mark.parametrize(
    ("errors", "incumbent_errors", "expected"),
    [(0, 0, PASS), (27, 0, PASS), (29, 0, WAIT), (150, 0, FAIL), (500, 500, WAIT), (30, 50, PASS)],
)
def test_errors_are_held_against_the_incumbents_and_a_tenth_of_a_per_cent(
    errors: int, incumbent_errors: int, expected: int
) -> None:
    gate = judged("errors", figures(LONG, errors=errors, incumbent_errors=incumbent_errors))

    assert gate.verdict == expected
    assert gate.guardrail


def test_what_a_challenger_was_spared_for_failing_counts_as_failed() -> None:
    """It failed for 0.4 per cent of the time: that is covered well enough, and nothing else would tell."""
    short, other = figures(LONG), figures(LONG)
    short.drops["failing"] = other.drops["buffer"] = 200
    gate = judged("errors", short)

    assert judged("coverage", short).verdict == PASS
    assert gate.verdict == FAIL
    assert gate.measured.startswith("0.40 %")
    assert gate.remark.endswith("; 200 of them spared after batches that all failed")
    assert judged("errors", other).verdict == PASS


def test_what_the_incumbent_loses_as_a_shadow_its_challenger_may_lose_as_well() -> None:
    lossy = figures(LONG, errors=300)

    assert judged("errors", lossy).verdict == FAIL
    assert judged("errors", lossy, figures(20_000, errors=200)).verdict == PASS


def test_what_both_were_spared_as_shadows_is_excused_as_what_both_lost() -> None:
    lossy, noise = figures(LONG), figures(20_000)
    lossy.drops["failing"], noise.drops["failing"] = 300, 200

    assert judged("errors", lossy).verdict == FAIL
    assert judged("errors", lossy, noise).verdict == PASS


def test_what_the_incumbent_loses_in_answering_its_copies_challenger_may_lose_as_well() -> None:
    lossy = figures(LONG, errors=300)

    assert judged("errors", lossy, figures(20_000, incumbent_errors=200)).verdict == PASS


@pytest.mark.parametrize("stage", [pb.STAGE_CANARY, pb.STAGE_PRIMARY])
def test_a_challenger_that_breaks_in_its_canary_does_not_hide_behind_a_good_past(stage: pb.Stage) -> None:
    whole = figures(500_000, **requests((0, 400_000), (40, 100_000)))
    gate = judged("errors", whole, stage=stage, since=figures(1_000, **requests((0, 0), (40, 1_000))))

    assert judged("errors", whole, stage=stage).verdict == PASS
    assert gate.verdict == FAIL
    assert gate.remark.endswith("since the last move")


def test_a_canary_of_one_in_a_hundred_that_fails_every_caller_is_taken_back_at_once() -> None:
    """Among the 2,000 pairs since the last move its 20 errors are a per cent, among all of them 0.04."""
    since = figures(2_000, errors=20, **requests((0, 1_980), (20, 20)))

    assert judged("errors", figures(LONG, errors=20), stage=pb.STAGE_CANARY, since=since).verdict == FAIL


def test_copies_that_are_lost_while_callers_are_answered_take_nobody_back() -> None:
    """One request of 64 rows that ran out of time as a shadow, and many: none of a caller's."""
    for errors in (64, 2_000):
        since = figures(20_000, errors=errors, **requests((0, 14_000), (0, 6_000)))

        assert judged("errors", figures(LONG, errors=errors), stage=pb.STAGE_CANARY, since=since).verdict == PASS


def test_callers_that_the_incumbent_fails_as_often_in_the_same_stage_take_nobody_back() -> None:
    """Their deadlines are as short whoever answers. In a quiet past it failed none."""
    whole = figures(500_000, **requests((600, 430_000), (200, 10_000)))
    same, none = (figures(40_000, **requests((of, 30_000), (200, 10_000))) for of in (600, 0))

    assert judged("errors", whole, stage=pb.STAGE_CANARY, since=same).verdict == WAIT
    assert judged("errors", whole, stage=pb.STAGE_CANARY, since=none).verdict == FAIL


def test_where_the_incumbent_is_hardly_asked_any_more_its_requests_of_the_whole_experiment_stand_in() -> None:
    whole = figures(500_000, **requests((4_300, 430_000), (100, 10_000)))
    since = figures(10_000, **requests((0, 30), (100, 10_000)))
    gate = judged("errors", whole, stage=pb.STAGE_PRIMARY, since=since)

    assert gate.verdict == WAIT
    assert judged("errors", figures(500_000), stage=pb.STAGE_PRIMARY, since=since).verdict == FAIL


@pytest.mark.parametrize("challenger", [(0, 0), (0, 2_000)])
def test_a_canary_passes_no_gate_of_errors_before_its_own_callers_have_shown_it(challenger: tuple[int, int]) -> None:
    since = figures(200_000, **requests((0, 198_000), challenger))

    assert judged("errors", figures(LONG), stage=pb.STAGE_CANARY, since=since).verdict == WAIT


@pytest.mark.parametrize(("since", "expected"), [(figures(2_000, 2), PASS), (figures(2_000, 9), WAIT)])
def test_flips_must_be_few_since_the_last_move_as_well(since: pb.Figures, expected: int) -> None:
    assert judged("flips", figures(500_000, 500), stage=pb.STAGE_CANARY, since=since).verdict == expected


@pytest.mark.parametrize(("late", "expected"), [(20, PASS), (60, WAIT), (120, FAIL)])
def test_the_canary_may_be_late_three_times_in_a_hundred(late: int, expected: int) -> None:
    of = figures(LONG, canary_late=rate(late, 2_000))

    assert judged("late", of, stage=pb.STAGE_CANARY).verdict == expected


def test_in_an_hour_that_is_slow_for_everybody_a_canary_is_as_late_as_the_incumbent() -> None:
    """A tenth of both since the last move; in the hours before it, a hundredth."""
    whole = figures(LONG, canary_late=rate(300, 4_000), incumbent_late=rate(500, 50_000))
    slow, own = figures(LONG, canary_late=rate(300, 3_000)), rate(900, 9_000)
    slow_for_all = figures(LONG, canary_late=rate(300, 3_000), incumbent_late=own)
    quick = figures(LONG, canary_late=rate(120, 3_000), incumbent_late=own)

    assert judged("late", whole, stage=pb.STAGE_CANARY, since=slow).verdict == FAIL
    assert judged("late", whole, stage=pb.STAGE_CANARY, since=slow_for_all).verdict == WAIT
    assert judged("late", whole, stage=pb.STAGE_CANARY, since=quick).verdict == PASS


def test_where_no_answer_of_the_stage_could_be_judged_the_whole_experiments_are() -> None:
    whole = figures(LONG, canary_late=rate(300, 2_000))

    assert judged("late", whole, stage=pb.STAGE_CANARY, since=figures(LONG)).verdict == FAIL


@pytest.mark.parametrize(("psi", "expected"), [(0.09, PASS), (0.2, CONSENT), (0.3, FAIL), (None, WAIT)])
def test_psi_asks_for_a_human_and_never_takes_a_challenger_back(psi: float | None, expected: int) -> None:
    gate = judged("psi", figures(LONG, psi=psi))

    assert gate.verdict == expected
    assert not gate.guardrail


@pytest.mark.parametrize(("ratio", "expected"), [(1.1, PASS), (1.2, FAIL), (None, WAIT)])
def test_batches_may_take_a_tenth_longer(ratio: float | None, expected: int) -> None:
    assert judged("batch_time", figures(LONG, batch_time_ratio=ratio)).verdict == expected


def test_coverage_leaves_out_what_is_under_way_and_names_what_was_dropped() -> None:
    under_way = figures(9_900, sampled=12_000, drops={"load": 100}, pending=2_000)
    holes = figures(9_000, sampled=10_000, drops={"load": 900, "buffer": 100})

    assert judged("coverage", under_way).verdict == PASS
    assert judged("coverage", holes).verdict == WAIT
    assert judged("coverage", holes).remark == "dropped: load 900, buffer 100"
    assert judged("coverage", figures(0)).verdict == WAIT


def outcomes(precision: tuple[float, float], recall: tuple[float, float], positives: int = 100) -> pb.LabelledFigures:
    return pb.LabelledFigures(
        labels=10_000,
        positives=positives,
        average_precision_gain=pb.Interval(lower=precision[0], upper=precision[1]),
        recall_gain=pb.Interval(lower=recall[0], upper=recall[1]),
    )


@pytest.mark.parametrize(
    ("precision", "recall", "expected"),
    [
        ((-0.005, 0.01), (-0.01, 0.02), PASS),
        ((-0.006, 0.01), (-0.01, 0.02), WAIT),
        ((-0.02, -0.01), (0, 0.1), FAIL),
        ((0, 0.1), (-0.05, -0.02), FAIL),
    ],
)
def test_a_challenger_must_find_no_less_fraud(precision: Any, recall: Any, expected: int) -> None:
    gate = judged("labels", figures(LONG), labelled=outcomes(precision, recall))

    assert gate.verdict == expected
    assert not gate.guardrail


def test_labels_that_are_all_fraud_compare_nothing_and_wait() -> None:
    """Neither side has a gain there, and none is not nought."""
    assert judged("labels", figures(LONG), labelled=pb.LabelledFigures(labels=60, positives=60)).verdict == WAIT


def test_a_handful_of_frauds_is_not_asked() -> None:
    found = gates.judge(experiment(), figures(LONG), None, outcomes((-1, 1), (-1, 1), positives=49), 1.0)

    assert "labels" not in [gate.name for gate in found]


def test_the_worst_gate_is_the_verdict_and_guardrails_that_fail_are_breached() -> None:
    of = [pb.Gate(name=str(each), verdict=each, guardrail=each != CONSENT) for each in (PASS, WAIT, CONSENT, FAIL)]

    assert [gates.verdict(of[:n]) for n in (1, 2, 3, 4)] == [PASS, WAIT, CONSENT, FAIL]
    assert gates.breached(of) == [of[3]]
    assert gates.breached([pb.Gate(verdict=FAIL)]) == []


def test_what_is_not_said_of_the_limits_has_its_default_and_nought_is_said() -> None:
    assert gates.filled(pb.Gates()) == DEFAULTS
    assert gates.filled(pb.Gates(min_hours=0)).min_hours == 0
    assert gates.filled(DEMO).max_flip_rate == DEFAULTS.max_flip_rate
    assert gates.filled(DEMO).min_pairs == 5_000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alpha", 0.0),
        ("alpha", 1.0),
        ("min_pairs", 0),
        ("min_hours", -1.0),
        ("min_canary_pairs", 0),
        ("max_flip_rate", 1.5),
        ("max_noise_ratio", -1.0),
        ("max_error_excess", nan),
        ("max_psi", 0.3),
        ("max_psi_with_consent", -1.0),
        ("min_coverage", 1.01),
        ("max_batch_time_ratio", nan),
        ("max_late_rate", -0.1),
    ],
)
def test_a_limit_that_cannot_be_is_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"gates\.{field}: "):
        gates.filled(pb.Gates(**{field: value}))
