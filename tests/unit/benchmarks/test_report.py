"""Ratios are taken round by round and generator by generator, and what was not measured is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import report

BAR = report.Bar("W1", "closed-64", "rps", "triton", 0.75)


def run(system: str, number: int, rps: float, **more: Any) -> dict[str, Any]:
    return {
        "workload": "W1", "system": system, "load": "closed-64", "generator": "perf_analyzer", "round": number,
        "rps": rps, "p50_ms": 1000 / rps, "p99_ms": 2000 / rps, "errors": 0, "wrong": 0,
        "cpu_s": 2.0, "wall_s": 4.0, **more,
    }  # fmt: skip


RUNS = [
    run("headrace", 0, 800), run("triton", 0, 1000), run("triton", 1, 2000), run("headrace", 1, 1000),
    run("headrace", 2, 900), run("headrace", 0, 100, generator="headrace"), run("triton", 0, 400, generator="headrace"),
]  # fmt: skip


def test_a_ratio_is_of_one_round_and_one_generator() -> None:
    assert report.ratios(BAR, RUNS) == [0.8, 0.5]


def test_our_own_generator_counts_where_there_is_no_other() -> None:
    own = [each for each in RUNS if each["generator"] == "headrace"]

    assert report.ratios(BAR, own) == [0.25]


@pytest.mark.parametrize(
    ("metric", "bound", "ratio", "met"),
    [("rps", 2.0, 2.0, True), ("rps", 2.0, 1.9, False), ("p50_ms", 2.0, 1.9, True), ("p50_ms", 2.0, 2.1, False)],
)
def test_more_requests_are_better_and_more_milliseconds_are_not(
    metric: str, bound: float, ratio: float, met: bool  # noqa: FBT001
) -> None:  # fmt: skip
    assert report.Bar("W1", "closed-1", metric, "triton", bound).met_by(ratio) is met


def test_a_bar_row_says_the_median_the_spread_and_whether_it_is_met() -> None:
    row = report.bar_row(BAR, RUNS)

    assert row[4:] == ("0.65", "0.50–0.80", "2", "≥ 0.75", "**no**")


def test_a_bar_without_its_peer_is_not_met() -> None:
    assert report.bar_row(BAR, [run("headrace", 0, 800)])[-1] == "not measured"


def test_a_system_that_did_not_run_has_a_row_that_says_why() -> None:
    absent = {
        "workload": "W1",
        "system": "mlserver",
        "load": "-",
        "round": 0,
        "rps": None,
        "errors": 1,
        "note": "gone\nx",
    }

    rows = report.figures([*RUNS, absent]).rows

    assert rows[-1][:5] == ("W1", "-", "mlserver", "", "not run: gone")


def test_a_median_is_over_rounds_and_faults_add_up() -> None:
    rows = report.figures([run("triton", n, rps, wrong=n) for n, rps in enumerate((500, 700, 900))]).rows

    assert rows == [("W1", "closed-64", "triton", "perf_analyzer", "700", "500–900", "1.43", "2.86", "0.71", "0", "3")]


def test_the_report_is_written_as_markdown(tmp_path: Path) -> None:
    report.publish({"hardware": "a machine", "runs": RUNS}, tmp_path / "report.md")

    text = (tmp_path / "report.md").read_text()
    assert "a machine" in text
    assert "| W1 | closed-64 | rps | triton | 0.65 | 0.50–0.80 | 2 | ≥ 0.75 | **no** |" in text
