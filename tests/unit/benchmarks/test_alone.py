"""Bars of headrace alone: shares within a round, sets of processes against smaller ones, and what failed is seen."""

from __future__ import annotations

from typing import Any

import alone
import pytest
import report

Run = dict[str, Any]


def overloaded(factor: float, number: int, goodput: float, **more: Any) -> Run:
    named = {"workload": "W3", "system": "headrace", "load": f"poisson-{factor}x", "round": number}
    return {**named, "offered_rps": 100 * factor, "goodput_rps": goodput, "p50_ms": 9.0, "p99_ms": 40.0, **more}


def scaled(replicas: int, gateways: int, rps: float, p99_ms: float = 50.0) -> Run:
    setup = {"workload": "W1", "load": "closed-64", "replicas": replicas, "gateways": gateways}
    return {**setup, "system": "headrace", "rps": rps, "p99_ms": p99_ms, "wrong": 0}


@pytest.mark.parametrize(("goodput", "p99_ms", "met"), [(95, 40, "yes"), (80, 40, "**no**"), (95, 60, "**no**")])
def test_goodput_at_2x_is_compared_within_its_round(goodput: float, p99_ms: float, met: str) -> None:
    base = [overloaded(1.0, 0, 100), overloaded(1.0, 1, 50)]
    runs = [*base, overloaded(2.0, 0, goodput, p99_ms=p99_ms), overloaded(2.0, 1, goodput / 2, p99_ms=p99_ms)]

    row = alone.overload(runs).rows[-1]

    assert (row[0], row[3], row[-1]) == ("poisson-2.0x", f"{goodput / 100:.2f}", met)


@pytest.mark.parametrize(("refused_ms", "met"), [(4.0, "yes"), (6.0, "**no**"), (None, "not measured")])
def test_refusals_at_3x_are_told_soon(refused_ms: float | None, met: str) -> None:
    runs = [overloaded(1.0, 0, 100), overloaded(3.0, 0, 90, refused_sent_p99_ms=refused_ms)]

    assert alone.overload(runs).rows[-1][-1] == met


def test_the_refuse_only_rate_stands_beside_them() -> None:
    refused = {"workload": "W3", "load": "refused-64", "refuse_rps": 9000.0, "gateway_cpu_us_per_refusal": 99.0}

    row = alone.overload([overloaded(1.0, 0, 100), refused]).rows[-1]

    assert row[:3] == ("refused-64", "", "9,000 refusals/s, 99 µs of the gateway each")


@pytest.mark.parametrize(
    ("four", "met"),
    [(scaled(4, 1, 115), "yes"), (scaled(4, 1, 105), "**no**"), (scaled(4, 1, 115, 60), "**no**")],
)
def test_a_set_is_held_against_the_best_smaller_one(four: Run, met: str) -> None:
    rows = alone.scaling([scaled(1, 1, 100), scaled(2, 1, 120), four]).rows

    assert [row[1] for row in rows] == ["1 replica", "2 replicas", "4 replicas"]
    assert [row[-1] for row in rows] == ["", "yes", met]


def test_more_replicas_are_no_smaller_set_of_more_gateways() -> None:
    assert alone.is_smaller((1, 1), (1, 2))
    assert not alone.is_smaller((4, 1), (1, 2))


def test_scaling_is_not_in_the_comparison_with_peers() -> None:
    assert not report.is_compared(scaled(1, 1, 100))
    assert not report.is_compared(overloaded(1.0, 0, 100))
    assert report.is_compared({"workload": "W1", "system": "triton", "load": "closed-64"})


def test_a_section_that_failed_is_seen() -> None:
    (sheet,) = alone.sheets({"runs": [], "notes": {"scaling": "failed: TimeoutError: "}})

    assert sheet.rows == [("scaling", "failed: TimeoutError: ")]
