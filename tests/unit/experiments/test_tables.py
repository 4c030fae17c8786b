"""Experiments in a terminal: what is in the way comes first, and nobody's name steers the terminal."""

from __future__ import annotations

import pytest
from rich.console import Console, RenderableType
from tests.reports import KINDS, experiment, rate, sample_report

from headrace.experiments import reading, tables, words
from headrace.v1 import control_pb2
from headrace.v1 import experiments_pb2 as pb


def printed(renderable: RenderableType, width: int = 160) -> str:
    console = Console(width=width, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_a_list_is_a_line_each_with_the_newest_move() -> None:
    drawn = printed(tables.listing([sample_report("canary").experiment, experiment(pb.STAGE_DRAFT)]))
    _, first, second = (" ".join(line.split()) for line in drawn.splitlines())

    assert first == (
        "fraud-tx-1-2 fraud-tx 1 → 2 canary 5 % 2026-11-11 13:20 UTC headrace "
        "pairs, coverage, flips, errors, late: hold"
    )
    assert second == "fraud-tx-1-2 fraud-tx 1 → 2 draft –"
    assert "no experiment" in printed(tables.listing([]))


def test_a_status_names_the_broken_gate_before_the_one_for_a_person_and_none_that_holds() -> None:
    text = printed(tables.status(sample_report("failing")))

    assert "✗ Version 2 may not go on: a gate is broken." in text
    assert text.index("Changed decisions") < text.index("Shift of the values")
    assert "Coverage" not in text
    assert text.splitlines()[-1].strip() == "headrace experiment rollback fraud-tx-1-2 --why '…'"


def test_a_status_of_one_that_passes_says_what_the_next_step_does() -> None:
    text = printed(tables.status(sample_report("passing")))

    assert "every gate holds" in text
    assert "let version 2 answer 1 % of the entities" in text
    assert "headrace experiment promote fraud-tx-1-2 --why '…'" in text


def test_a_report_says_every_part_that_there_is() -> None:
    text = printed(tables.whole(sample_report("labelled")))

    for part in (
        "gates",
        "changed decisions",
        "by currency",
        "disagree most",
        "failed of late",
        "outcomes say",
        "moves",
    ):
        assert part in text
    assert "noise floor" in text
    assert sample_report().worst[0].trace_id in text
    assert "what came is no answer" in text
    assert sample_report().failures[0].trace_id in text
    assert "58,240" in text
    assert "the oldest made room" in text


def test_a_draft_has_a_next_step_and_no_figures() -> None:
    text = printed(tables.whole(sample_report("draft")))

    assert "Nothing is compared yet." in text
    assert "headrace experiment promote fraud-tx-1-2" in text
    assert "gates" not in text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [60, 160])
def test_no_line_is_wider_than_the_terminal(kind: str, width: int) -> None:
    assert max(len(line) for line in printed(tables.whole(sample_report(kind)), width).splitlines()) <= width


def test_names_of_callers_are_neither_markup_nor_control_sequences() -> None:
    report = sample_report("canary")
    hostile = "[red]x[/red]\x1b[2J\x1b]8;;http://a\x07\u202etxt\nsecond"
    report.experiment.id = report.experiment.model = report.experiment.challenger = hostile
    report.experiment.moves[0].why = report.experiment.moves[0].who = report.gates[0].remark = hostile
    report.figures.segments[0].value = report.figures.segments[0].name = report.worst[0].trace_id = hostile
    report.failures[0].trace_id = report.worst[0].currency = report.figures.flips[0].money[0].currency = hostile
    report.figures.drops[hostile] = 1
    policy = control_pb2.TrafficPolicy(
        model=hostile, primary_version=hostile, canary={"version": hostile, "share": 0.1}
    )

    for drawn in (
        tables.whole(report),
        tables.status(report),
        tables.listing([report.experiment]),
        tables.policy(policy),
    ):
        text = printed(drawn, 2000)
        assert "[red]x[/red]" in text
        assert not {char for char in text if not char.isprintable()} - {"\n"}


def test_a_policy_says_who_answers_how_much() -> None:
    policy = control_pb2.TrafficPolicy(
        model="fraud-tx",
        primary_version="1",
        canary={"version": "2", "share": 0.05},
        shadows=[{"experiment_id": "e", "incumbent": "1", "challenger": "2", "share": 1.0}],
    )
    lines = [" ".join(line.split()) for line in printed(tables.policy(policy)).splitlines()]

    assert lines[1] == "1 95 % fraud-tx"
    assert lines[2] == "2 5 % of the entities fraud-tx"
    assert lines[3] == "2 compared with 1, 100 % of the requests fraud-tx, experiment e"
    assert "the highest that is ready" in printed(tables.policy(control_pb2.TrafficPolicy(model="m")))


@pytest.mark.parametrize(
    ("stage", "share", "sentence"),
    [
        (pb.STAGE_SHADOW, 0.0, "answer 1 % of the entities"),
        (pb.STAGE_CANARY, 0.01, "answer 5 % of the entities"),
        (pb.STAGE_CANARY, 0.25, "answer 100 % of the entities"),
        (pb.STAGE_CANARY, 1.0, "put version 2 in charge"),
        (pb.STAGE_PRIMARY, 0.0, "end the comparison"),
    ],
)
def test_the_next_step_goes_the_plan_s_way(stage: pb.Stage, share: float, sentence: str) -> None:
    report = pb.Report(experiment=experiment(stage, share=share), verdict=pb.VERDICT_PASS)

    assert sentence in reading.next_step(report).sentence
    del report.experiment.plan.canary_shares[:]
    assert sentence in reading.next_step(report).sentence


@pytest.mark.parametrize(
    ("verdict", "automatic", "command"),
    [
        (pb.VERDICT_PASS, False, "headrace experiment promote fraud-tx-1-2 --why '…'"),
        (pb.VERDICT_PASS, True, "headrace experiment status fraud-tx-1-2 --watch 10"),
        (pb.VERDICT_CONSENT, True, "headrace experiment promote fraud-tx-1-2 --consent --why '…'"),
        (pb.VERDICT_WAIT, False, "headrace experiment status fraud-tx-1-2 --watch 10"),
        (pb.VERDICT_FAIL, True, "headrace experiment rollback fraud-tx-1-2 --why '…'"),
    ],
)
def test_a_verdict_has_its_command(verdict: pb.Verdict, automatic: bool, command: str) -> None:  # noqa: FBT001
    report = pb.Report(experiment=experiment(pb.STAGE_SHADOW), verdict=verdict)
    report.experiment.plan.automatic = automatic

    assert reading.next_step(report).command == command


def test_an_id_can_t_add_to_the_command() -> None:
    report = sample_report("passing")
    report.experiment.id = "x; rm -rf ."

    assert reading.next_step(report).command.startswith("headrace experiment promote 'x; rm -rf .' ")


@pytest.mark.parametrize(("stage", "word"), [(pb.STAGE_FINISHED, "in charge"), (pb.STAGE_ROLLED_BACK, "taken back")])
def test_an_ended_experiment_asks_for_nothing(stage: pb.Stage, word: str) -> None:
    report = pb.Report(experiment=experiment(stage), verdict=pb.VERDICT_PASS)

    assert word in reading.headline(report)
    assert reading.next_step(report) == ("Nothing is left to do.", "")


@pytest.mark.parametrize(
    "cause", ["buffer", "load", "unready", "failing", "inputs", "stopped", "control", "gateway", "error"]
)
def test_every_cause_of_a_drop_is_said_in_words(cause: str) -> None:
    assert " " in words.cause(cause)


def test_the_limit_of_flips_is_the_gate_s_then_the_plan_s_then_the_default() -> None:
    report = sample_report("passing")
    report.gates[2].limit_value = 0.0075
    assert reading.flip_limit(report) == pytest.approx(0.0075)

    del report.gates[:]
    report.experiment.plan.gates.max_flip_rate = 0.002
    assert reading.flip_limit(report) == pytest.approx(0.002)

    report.experiment.plan.ClearField("gates")
    assert reading.flip_limit(report) == pytest.approx(0.005)


def test_a_part_is_above_the_limit_only_when_its_interval_is() -> None:
    assert reading.above(rate(300, 2_900), 0.005) == "above the limit"
    assert reading.above(rate(1, 150), 0.005) == "perhaps above"
    assert reading.above(rate(1, 2_000), 0.005) == ""
    assert reading.above(pb.Rate(), 0.005) == ""


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (words.percent(0.0022), "0.22 %"),
        (words.percent(0.000052), "0.0052 %"),
        (words.percent(-0.0001), "−0.010 %"),
        (words.percent(-0.0000001), "0.00 %"),
        (words.percent(float("nan")), "–"),
        (words.number(-0.000012345), "−1.234e-05"),
        (words.number(1234567), "1,234,567"),
        (words.signed(0.25), "+0.25"),
        (words.signed(-0.0), "0"),
        (words.edge(-0.0001), "−10⁻⁴"),
        (words.edge(float("-inf")), "−∞"),
        (words.edge(0.001), "0.001"),
        (words.milliseconds(4.123), "4.12"),
        (words.milliseconds(1412.3), "1,412"),
        (words.rate(pb.Rate()), "–"),
        (words.money(1234.5, "EUR"), "1,234 EUR"),
        (words.plain("a\x00b\u200ec\td"), "a\ufffdb\ufffdc d"),
        (words.gate("new-one"), "new-one"),
        (words.alike([pb.Disagreement(incumbent=0.5, challenger=0.132)]), [("0.500", "0.132", "−0.368")]),
        (words.alike([pb.Disagreement(incumbent=12, challenger=990)]), [("12", "990", "+978")]),
        (words.alike([]), []),
    ],
)
def test_values_read_as_people_write_them(said: object, expected: object) -> None:
    assert said == expected
