"""The simulated world keeps its books, agrees with one that plays every request, and its policies are the real ones."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import scale_simulation
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scale_sim import hpa
from scale_sim.curves import Curve
from scale_sim.exact import Exact
from scale_sim.fleet import Fleet
from scale_sim.lanes import Lanes
from scale_sim.policies import CONTENDERS
from scale_sim.seen import Policy, Seen
from scale_sim.serve import AS_IT_COMES, PROMPT, OngoingRequests, Reported, simulated_time
from scale_sim.traces import PEAK, TRACES
from scale_sim.world import CPU, STEP_S, TICK_S, World

WORLD = World()
FULL = 1 / CPU.full_row_s


def seen(now_s: float, **figures: float) -> Seen:
    usual: dict[str, float] = {
        "target": 10,
        "serving": 10,
        "ordered": 10,
        "begun": 0,
        "backlog_s": 0.0,
        "work": 5.0,
        "slack_s": math.inf,
        "ongoing": 40.0,
        "busy_s": 0.0,
    }
    return Seen(now_s=now_s, **{**usual, **figures})  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.integers(0, 3_000), st.integers(0, 60)), min_size=1, max_size=60),
    st.sampled_from([0.03, 0.05, 0.2]),
)
@settings(deadline=None)
def test_whatever_arrives_is_answered_or_missed_or_waits(steps: list[tuple[int, int]], deadline_s: float) -> None:
    lanes = Lanes((1,), World(deadline_s=deadline_s))
    for rows, replicas in steps:
        lanes.step(np.array([float(rows)]), np.array([float(replicas)]))

        told = lanes.answered + lanes.refused + lanes.late + lanes.waiting
        assert lanes.arrived == pytest.approx(told)
        assert min(lanes.waiting[0], lanes.late[0], lanes.refused[0], lanes.answered[0]) >= -1e-6


@given(st.integers(1, 60), st.floats(0.1, 4.0))
@settings(deadline=None)
def test_replicas_answer_no_more_than_full_batches_would(replicas: int, load: float) -> None:
    lanes = Lanes((1,), WORLD)
    for _ in range(200):
        lanes.step(np.array([load * replicas * FULL * STEP_S]), np.array([float(replicas)]))

    assert lanes.answered[0] <= replicas * FULL * 200 * STEP_S * (1 + 1e-9)
    assert lanes.busy_s[0] <= replicas * 200 * STEP_S * (1 + 1e-9)


@pytest.mark.parametrize(("replicas", "load"), [(4, 0.3), (4, 0.8), (8, 0.95), (8, 1.3), (4, 2.0)])
def test_the_flow_agrees_with_every_request_played(replicas: int, load: float) -> None:
    rate, seconds = load * replicas * FULL, 6.0
    times = np.cumsum(np.random.default_rng(5).exponential(1 / rate, int(rate * seconds)))
    exact = Exact(WORLD, replicas).play(times)
    lanes = Lanes((1,), WORLD)
    for rows in steps_of(times):
        lanes.step(np.array([rows]), np.array([float(replicas)]))
    lanes.settle()

    assert lanes.arrived[0] == exact.arrived
    missed = (lanes.refused[0] + lanes.late[0]) / exact.arrived
    assert missed == pytest.approx((exact.refused + exact.late) / exact.arrived, abs=0.04)
    assert lanes.busy_s[0] == pytest.approx(exact.busy_s, rel=0.15)


def steps_of(times: NDArray[np.float64]) -> list[float]:
    counts = np.bincount((times / STEP_S).astype(np.int64))
    return [float(count) for count in counts]


def test_overload_is_refused_at_the_door_and_what_is_let_in_is_answered() -> None:
    lanes = Lanes((1,), WORLD)
    for _ in range(400):
        lanes.step(np.array([2 * 10 * FULL * STEP_S]), np.array([10.0]))

    assert lanes.answered[0] / lanes.arrived[0] == pytest.approx(0.5, abs=0.02)
    assert lanes.late[0] < 0.05 * lanes.refused[0]


def test_lost_replicas_make_those_late_who_were_let_in() -> None:
    lanes = Lanes((1,), WORLD)
    for _ in range(100):
        lanes.step(np.array([10 * FULL * STEP_S]), np.array([9.0]))
    for _ in range(20):
        lanes.step(np.array([0.0]), np.array([1.0]))

    assert lanes.late[0] > 0


def test_a_pod_of_a_new_node_takes_minutes_and_one_that_is_there_does_not() -> None:
    fleet = Fleet((1,), World(warm_pods=6, start_s=4.0, node_s=60.0), begin_with=4)
    fleet.want((0,), 10)
    serving = []
    for _ in range(round(70 / TICK_S)):
        fleet.tick()
        serving.append(float(fleet.serving[0]))

    assert serving[round(3 / TICK_S)] == 4
    assert serving[round(5 / TICK_S)] == 6
    assert serving[round(60 / TICK_S)] == 6
    assert serving[-1] == 10


def test_fewer_are_wanted_while_some_are_on_their_way() -> None:
    fleet = Fleet((1,), WORLD, begin_with=4)
    fleet.want((0,), 10)
    fleet.want((0,), 7)
    assert (fleet.serving[0], fleet.ordered[0]) == (4, 7)
    fleet.want((0,), 3)
    assert (fleet.serving[0], fleet.ordered[0]) == (3, 3)


def test_lost_replicas_are_paid_for_and_come_back() -> None:
    fleet = Fleet((1,), World(start_s=4.0, notice_s=3.0), begin_with=9)
    fleet.lose(1 / 3)
    assert (fleet.serving[0], fleet.ordered[0]) == (6, 9)
    for _ in range(round(8 / TICK_S)):
        fleet.tick()
    assert fleet.serving[0] == 9


@pytest.mark.parametrize(
    ("ratio", "ready", "unready", "wanted"),
    [
        (2.0, 10, 0, 20),  # the documentation's example: twice the target doubles
        (0.5, 10, 0, 5),
        (1.09, 10, 0, 10),  # within the tolerance
        (0.91, 10, 0, 10),
        (1.5, 10, 0, 15),
        (2.0, 10, 10, 20),  # those on their way count as idle: 1.0 is within the tolerance
        (2.0, 10, 4, 20),
        (1.2, 10, 10, 20),  # 0.6 would turn the direction
        (0.5, 10, 10, 5),  # nobody dilutes a scale-down
    ],
)
def test_the_hpa_wants_what_its_controller_wants(ratio: float, ready: int, unready: int, wanted: int) -> None:
    assert hpa.replicas_for(ratio, ready + unready, ready, unready) == wanted


def test_the_hpa_at_most_doubles_in_a_quarter_of_a_minute_and_shrinks_after_five() -> None:
    scaler = hpa.CpuUtilisation(WORLD, 50.0)
    target, busy_s, history = 10, 0.0, []
    for tick in range(1, round(900 / TICK_S)):
        now_s = tick * TICK_S
        busy_s += TICK_S * (1.0 if now_s < 60 else 0.1)
        decided = scaler.decide(seen(now_s, target=target, serving=target, ordered=target, busy_s=busy_s))
        target = target if decided is None else decided
        history.append((now_s, target))

    peak = max(number for _, number in history)
    grown = [number for now_s, number in history if now_s <= 60]
    assert all(later <= 2 * sooner for sooner, later in zip(grown, grown[round(15 / TICK_S) :], strict=False))
    shrunk_at = next(now_s for now_s, number in history if now_s > 60 and number < peak)
    assert 300 <= shrunk_at - 60 <= 350


def followed(policy: Policy, figures: list[dict[str, float]]) -> list[int]:
    """What is decided tick by tick, while ten replicas serve."""
    target, decided = 10, []
    with simulated_time():
        for tick, figure in enumerate(figures):
            target = policy.decide(seen(tick * TICK_S, target=target, **figure)) or target
            decided.append(target)
    return decided


def test_serves_policy_follows_its_target_of_ongoing_requests() -> None:
    with simulated_time():
        policy = OngoingRequests(WORLD, PROMPT, 2.0, 10)
    decided = followed(policy, [{"ongoing": 40.0}] * 20)
    assert (decided[0], decided[-1]) == (10, 20)


def test_serve_as_it_comes_waits_for_half_a_minute() -> None:
    with simulated_time():
        policy = OngoingRequests(WORLD, AS_IT_COMES, 2.0, 10)
    decided = followed(policy, [{"ongoing": 40.0}] * 200)
    assert 30 <= TICK_S * decided.index(20) <= 50


def test_headraces_policy_answers_a_step_within_two_seconds() -> None:
    """On Ray it took 1.5 to 1.7 s until the first replicas were asked for."""
    with simulated_time():
        policy = Reported(WORLD, PROMPT, 10, {"BUSY": 0.7})
    decided = followed(policy, [{"work": 5.0}] * 20 + [{"work": 12.0}] * 20)
    assert set(decided[:20]) == {10}
    grown_s = TICK_S * (next(tick for tick, number in enumerate(decided) if number > 10) - 20)
    assert 0.5 <= grown_s <= 2.0


def test_a_setting_travels_with_the_policy_and_stays_with_it() -> None:
    with simulated_time():
        careful, bold = (Reported(WORLD, PROMPT, 10, {"BUSY": busy}) for busy in (0.5, 0.9))
    work = [{"work": 9.0}] * 20
    assert (followed(careful, work)[-1], followed(bold, work)[-1]) == (18, 10)


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.name)
def test_a_seed_is_a_trace_and_none_is_faster_than_the_peak(trace: object) -> None:
    assert isinstance(trace, type(TRACES[0]))
    rates = trace.rates(3)
    assert (rates == trace.rates(3)).all()
    assert (rates != trace.rates(4)).any()
    assert 0 <= rates.min() <= rates.max() <= PEAK


@pytest.mark.proof
def test_the_quick_run_draws_and_keeps_its_books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["scale_simulation.py", "--quick", "--out", str(tmp_path)])
    scale_simulation.main()

    assert {path.name for path in tmp_path.glob("*.png")} == {"misses.png", "flash-sale.png"}
    for trace in TRACES:
        told = json.loads((tmp_path / f"{trace.name}.json").read_text())
        assert {run["policy"] for run in told["runs"]} == {contender.name for contender in CONTENDERS}
        for run in told["runs"]:
            kept = zip(run["answered"], run["refused"], run["late"], strict=True)
            assert run["arrived"] == pytest.approx([sum(parts) for parts in kept], abs=0.01)


CURVE = Curve("x", "knob", (3.0, 2.0, 1.0), np.array([[10.0], [20.0], [15.0]]), np.array([[1e-1], [1e-3], [2e-1]]))


def test_a_policy_is_compared_at_its_best_settings() -> None:
    assert CURVE.missed_at(np.array([15.0]))[0] == pytest.approx(1e-1)  # 2e-1 is nobody's choice
    assert CURVE.missed_at(np.array([17.5]))[0] == pytest.approx(1e-2)  # on the line between
    assert CURVE.hours_for(1e-2)[0] == pytest.approx(17.5)
    hours, missed = CURVE.best()
    assert (hours.tolist(), missed.tolist()) == ([10.0, 20.0], [1e-1, 1e-3])


def test_what_a_policy_cannot_do_has_no_figure() -> None:
    assert np.isnan(CURVE.missed_at(np.array([9.0]))[0])
    assert np.isnan(CURVE.hours_for(1e-5)[0])
