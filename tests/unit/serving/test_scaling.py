"""The law: more work or more backlog never asks for fewer replicas, garbage for no change, and nothing raises."""

from __future__ import annotations

import ast
import math
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.serving import scaling
from headrace.serving.scaling import BACKLOG, BUSY, LEAP, MOST, RUSH, SLACK, WORK, follow_deadlines, replicas_wanted

amounts = st.floats(0, 1e4)
slacks = st.floats(0, 10) | st.just(math.inf)
counts = st.integers(0, 1_000)
garbage = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.floats(), max_size=2)
)


def context(work: Any = (), backlog: Any = (), slack: Any = (), **more: Any) -> SimpleNamespace:
    """What Serve hands over: each replica's latest figures as series, and their means."""
    figures = {WORK: work, BACKLOG: backlog, SLACK: slack}
    series = {
        name: {i: [SimpleNamespace(timestamp=0.0, value=v)] for i, v in enumerate(f)} for name, f in figures.items()
    }
    means = {name: dict(enumerate(values)) for name, values in figures.items() if values}
    usual = {
        "raw_metrics": {name: found for name, found in series.items() if found},
        "aggregated_metrics": means,
        "target_num_replicas": 7,
        "current_num_replicas": 7,
        "policy_state": {},
        "current_time": 1e9,
    }
    return SimpleNamespace(**{**usual, **more})


@given(amounts, amounts, amounts, slacks, amounts, counts)
def test_more_work_never_asks_for_fewer(
    less: float, more: float, backlog_s: float, slack_s: float, usual: float, serving: int
) -> None:
    """Unless it is work that explains the backlog: then replicas on their way count."""
    less, more = sorted((less, more))
    few = replicas_wanted(0.0, less, slack_s, usual, serving)
    assert few <= replicas_wanted(0.0, more, slack_s, usual, serving)
    assert few <= replicas_wanted(backlog_s, less, slack_s, usual, serving)


@given(amounts, amounts, amounts, slacks, amounts, counts)
def test_more_backlog_never_asks_for_fewer(
    less: float, more: float, work: float, slack_s: float, usual: float, serving: int
) -> None:
    less, more = sorted((less, more))
    few = replicas_wanted(less, work, slack_s, usual, serving)
    assert few <= replicas_wanted(more, work, slack_s, usual, serving)


@given(amounts, amounts, slacks, slacks, amounts, counts)
def test_less_time_never_asks_for_fewer(
    backlog_s: float, work: float, one_s: float, other_s: float, usual: float, serving: int
) -> None:
    short_s, long_s = sorted((one_s, other_s))
    many = replicas_wanted(backlog_s, work, short_s, usual, serving)
    assert many >= replicas_wanted(backlog_s, work, long_s, usual, serving)


@given(st.floats(0, 1e308), st.floats(0, 1e308), slacks, st.floats(0, 1e308), counts)
def test_it_is_bounded(backlog_s: float, work: float, slack_s: float, usual: float, serving: int) -> None:
    assert 1 <= replicas_wanted(backlog_s, work, slack_s, usual, serving) <= MOST


@given(amounts, counts)
def test_replicas_are_as_busy_as_they_may_be(work: float, serving: int) -> None:
    wanted = replicas_wanted(0.0, work, math.inf, work, serving)
    assert work / wanted <= BUSY + 1e-9 or wanted == MOST
    assert wanted == 1 or work / (wanted - 1) >= BUSY * (1 - 1e-9)


def test_a_rush_is_ordered_ahead_and_what_is_hardly_more_than_usual_is_not() -> None:
    assert replicas_wanted(0.0, 10.0, math.inf, usual=10.0 / (RUSH * 0.99)) == math.ceil(10 / BUSY)
    assert replicas_wanted(0.0, 20.0, math.inf, usual=10.0) > math.ceil(20 / BUSY)


def test_backlog_asks_for_nothing_while_replicas_that_work_asks_for_are_on_their_way() -> None:
    assert replicas_wanted(100.0, 14.0, 0.0, usual=14.0, serving=10) == math.ceil(14 / BUSY)


def test_backlog_that_work_does_not_explain_asks_for_one_leap() -> None:
    assert replicas_wanted(100.0, 7.0, 0.0, usual=7.0, serving=10) == math.ceil(LEAP * 10)


def test_what_waits_within_its_time_asks_for_nothing() -> None:
    assert replicas_wanted(0.05, 7.0, 0.04, usual=7.0, serving=10) == 10


def test_replicas_report_parts_and_the_policy_sums_the_latest() -> None:
    wanted, state = follow_deadlines(context(work=[2.0, 2.0, 3.0]))
    assert wanted == math.ceil(7 / BUSY)
    assert state


def test_silence_holds_what_there_is() -> None:
    for said in ({}, {"raw_metrics": None, "aggregated_metrics": None}, {"raw_metrics": {WORK: {}}}):
        assert follow_deadlines(context(**said))[0] == 7


@pytest.mark.parametrize(("target", "kept"), [(40, 20), (7, 4), (3, 2), (2, 1), (1, 1)])
def test_no_work_halves_what_there_is(target: int, kept: int) -> None:
    assert follow_deadlines(context(work=[0.0, 0.0], target_num_replicas=target))[0] == kept


def test_what_is_usual_is_remembered_and_fades() -> None:
    _, state = follow_deadlines(context(work=[4.0]))
    _, soon = follow_deadlines(context(work=[8.0], policy_state=state, current_time=1e9 + 1))
    _, late = follow_deadlines(context(work=[8.0], policy_state=soon, current_time=1e9 + 100))
    assert 4 < soon[scaling.USUAL] < 5
    assert late[scaling.USUAL] == pytest.approx(8, abs=0.01)


def test_figures_that_are_none_do_not_count() -> None:
    assert follow_deadlines(context(work=[7.0, math.nan, math.inf, -3.0], slack=[math.nan]))[0] == math.ceil(7 / BUSY)


@given(
    st.dictionaries(st.sampled_from([WORK, BACKLOG, SLACK]), st.lists(garbage, max_size=3)),
    st.dictionaries(st.sampled_from([scaling.USUAL, scaling.SINCE]), garbage),
    garbage,
)
def test_garbage_never_raises_and_what_it_asks_for_is_a_number(
    figures: dict[str, list[Any]], state: dict[str, Any], now: Any
) -> None:
    names = {"work": figures.get(WORK, []), "backlog": figures.get(BACKLOG, []), "slack": figures.get(SLACK, [])}
    wanted, kept = follow_deadlines(context(**names, policy_state=state, current_time=now))
    assert isinstance(wanted, int)
    assert 1 <= wanted <= MOST
    assert isinstance(kept, dict)


def test_a_bug_holds_what_there_is() -> None:
    assert follow_deadlines(SimpleNamespace(target_num_replicas=5)) == (5, {})


def test_serve_can_pickle_it_by_value() -> None:
    """It runs where the package may be of another version: nothing but the standard library may be imported."""
    tree = ast.parse(Path(scaling.__file__).read_text())
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= set(sys.stdlib_module_names)

    cloudpickle = pytest.importorskip("ray.cloudpickle")
    cloudpickle.register_pickle_by_value(scaling)
    try:
        copy = pickle.loads(cloudpickle.dumps(follow_deadlines))  # noqa: S301 - our own bytes
    finally:
        cloudpickle.unregister_pickle_by_value(scaling)
    assert copy is not follow_deadlines
    assert copy(context(work=[7.0]))[0] == math.ceil(7 / BUSY)
