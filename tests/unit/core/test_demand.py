"""What a lane says of the work it has for its replicas, and that nobody who is about to be late is overlooked."""

from __future__ import annotations

import gc
import math
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.core import demand
from headrace.core.cost import CostModel
from headrace.core.demand import MEMORY_S, Arrivals
from headrace.core.inference import Inference
from headrace.core.policy import Budget
from headrace.core.queue import LevelPolicy, RiderQueue
from headrace.core.records import RpcRecord
from headrace.core.rider import Rider
from headrace.core.tensors import ModelSpec, TensorSpec
from headrace.errors import Cancelled

SPEC = ModelSpec("m", "1", "", (TensorSpec("x", "FP32", (1,)),), (TensorSpec("y", "FP32", (1,)),))
BUDGET = Budget(rows=4, tokens=100)
COST = CostModel(initial_s=0.1)
"""Whatever a batch holds, 100 ms."""
STEP_S = 0.01


def rider(deadline: float, level: int = 0, tokens: int = 10) -> Rider:
    inference = Inference(SPEC, [b"1234"], 1, (), tokens, deadline)
    return Rider(inference, RpcRecord(b"t" * 16, 1, 0, True, 0), lambda: None, level)


def after(arrivals: Arrivals, begun: float, seconds: float, rows_s: float, each: int = 10) -> float:
    """One row every 1/`rows_s` from `begun` on, each of so many tokens. Returns: the work at the end."""
    for number in range(round(seconds / STEP_S)):
        now = begun + number * STEP_S
        for _ in range(math.floor((number + 1) * STEP_S * rows_s + 1e-9) - math.floor(number * STEP_S * rows_s + 1e-9)):
            arrivals.add(1, each)
        demand.work(arrivals, BUDGET, COST, now + STEP_S)
    return demand.work(arrivals, BUDGET, COST, begun + seconds)


# Work -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows_s", "each", "batches_s"), [(40, 10, 10), (40, 50, 20), (20, 10, 5)])
def test_work_is_what_full_batches_of_what_comes_would_take(rows_s: float, each: int, batches_s: float) -> None:
    """By rows or by tokens, whichever fill a batch first; at 100 ms a batch."""
    work = after(Arrivals(0.0), 0.0, 10 * MEMORY_S, rows_s, each)

    assert work == pytest.approx(0.1 * batches_s, rel=0.05)


def test_work_follows_a_doubled_load_within_two_seconds_and_an_ended_one_as_fast() -> None:
    arrivals = Arrivals(0.0)
    before = after(arrivals, 0.0, 10.0, 40)
    doubled = [after(arrivals, 10.0 + second, 1.0, 80) for second in range(3)]
    ended = [demand.work(arrivals, BUDGET, COST, 13.0 + second) for second in (1, 2, 3)]

    assert all(earlier < later for earlier, later in pairwise([before, *doubled]))
    assert doubled[1] > 1.8 * before
    assert doubled[2] < 2.1 * before
    assert all(later < 0.5 * earlier for earlier, later in pairwise([doubled[2], *ended]))


def test_the_first_after_a_long_silence_is_not_a_load() -> None:
    arrivals = Arrivals(0.0)
    arrivals.add(1, 10)

    assert demand.work(arrivals, BUDGET, COST, 60.0) == pytest.approx(0.1 / 4 / 60)


def test_who_is_refused_before_being_decoded_is_work_as_well() -> None:
    """Else an overload would look like what the replicas can do, and they would follow it in small steps."""
    seen, refused = Arrivals(0.0), Arrivals(0.0)
    for number in range(1000):
        seen.add(1, 20)
        refused.add_unseen() if number % 2 else refused.add(1, 20)
        now = 0.01 * (number + 1)
        assert demand.work(refused, BUDGET, COST, now) == pytest.approx(demand.work(seen, BUDGET, COST, now), rel=0.25)
    for arrivals in (seen, refused):  # all of a second are refused: they count as much as those before
        for _ in range(100):
            arrivals.add_unseen()

    assert demand.work(refused, BUDGET, COST, 11.0) == pytest.approx(demand.work(seen, BUDGET, COST, 11.0))


@given(
    steps=st.lists(st.tuples(st.floats(0.001, 3), st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=30),
)
def test_what_two_gateways_say_adds_up_to_what_one_would_have_said(steps: list[tuple[float, int, int]]) -> None:
    left, right, whole = Arrivals(0.0), Arrivals(0.0), Arrivals(0.0)
    now = 0.0
    for passed_s, to_left, to_right in steps:
        now += passed_s
        for arrivals, count in ((left, to_left), (right, to_right), (whole, to_left + to_right)):
            for _ in range(count):
                arrivals.add(1, 10)
        parts = sum(demand.work(arrivals, BUDGET, COST, now) for arrivals in (left, right))

        assert parts == pytest.approx(demand.work(whole, BUDGET, COST, now))


# Slack ----------------------------------------------------------------------------------------------------------------


def test_slack_is_what_the_tightest_has_beyond_the_next_batchs_run() -> None:
    queue = RiderQueue(100)
    for deadline in (1.0, 0.5, 2.0):
        queue.push(rider(deadline), 0.0)

    assert demand.slack_s(queue, BUDGET, COST, 0.1) == pytest.approx(0.5 - 0.1 - 0.1)


def test_the_next_batchs_run_is_that_of_a_full_one_at_most() -> None:
    cost = CostModel()
    for tokens in (100, 200) * 50:
        cost.observe(tokens, 0.001 * tokens)
    queue = RiderQueue(100)
    for _ in range(30):
        queue.push(rider(1.0), 0.0)

    assert demand.slack_s(queue, BUDGET, cost, 0.0) == pytest.approx(1.0 - 0.1, abs=0.01)


def test_nobody_who_waits_is_an_infinite_slack_and_somebody_late_is_none() -> None:
    queue = RiderQueue(100)
    assert demand.slack_s(queue, BUDGET, COST, 0.0) == math.inf
    queue.push(rider(1.0), 0.0)
    assert demand.slack_s(queue, BUDGET, COST, 5.0) == 0.0
    queue.pop()

    assert demand.slack_s(queue, BUDGET, COST, 0.0) == math.inf


def test_the_end_of_a_riders_patience_counts_as_its_deadline_until_it_goes_behind_the_others() -> None:
    queue = RiderQueue(100, [LevelPolicy(timeout_s=0.2, delays=True)])
    patient = rider(1.0)
    patient.queued_until = 0.2
    queue.push(patient, 0.0)

    assert queue.tightest() == 0.2
    queue.time_is_over(patient)
    assert queue.tightest() == 1.0


def test_one_who_has_gone_behind_the_others_hides_nobody_who_is_lost_before() -> None:
    queue = RiderQueue(100, [LevelPolicy(timeout_s=0.2, delays=True)])
    patient = rider(10.0)
    patient.queued_until = 0.2
    for one in (patient, rider(5.0), rider(2.0)):
        queue.push(one, 0.0)

    queue.time_is_over(patient)
    assert queue.tightest() == 2.0
    queue.pop()
    queue.pop()
    assert queue.tightest() == 10.0


PUSH, POP, LEAVE = range(3)
steps = st.lists(st.tuples(st.sampled_from((PUSH, PUSH, POP, LEAVE)), st.integers(0, 99)), max_size=200)


@given(steps=steps, levels=st.integers(1, 3))
@example(steps=[(PUSH, 9), (PUSH, 1), (LEAVE, 1), (PUSH, 50)], levels=1)
def test_the_tightest_is_never_earlier_than_it_is_nor_later_than_who_stands_in_front(
    steps: list[tuple[int, int]], levels: int
) -> None:
    queue = RiderQueue(1000, [LevelPolicy()] * levels)
    for step, number in steps:
        living = list(queue)
        if step == PUSH:
            queue.push(rider(float(number), number % levels), 0.0)
        elif step == POP:
            queue.pop()
        elif living:
            living[number % len(living)].settle(Cancelled("the caller went away"))
        dues = [one.due for one in queue]
        fronts = {one.level: one.due for one in reversed(list(queue))}.values()

        assert min(dues, default=math.inf) <= queue.tightest() <= min(fronts, default=math.inf)


@given(steps=steps, levels=st.integers(1, 3))
def test_while_nobody_leaves_early_the_tightest_is_exact(steps: list[tuple[int, int]], levels: int) -> None:
    queue = RiderQueue(1000, [LevelPolicy()] * levels)
    for step, number in steps:
        if step == PUSH:
            queue.push(rider(float(number), number % levels), 0.0)
        else:
            queue.pop()

        assert queue.tightest() == min((one.due for one in queue), default=math.inf)


def test_those_who_have_left_are_not_kept_by_one_who_stays() -> None:
    """A caller's columns must not outlive it, however long somebody in front of it waits."""
    queue = RiderQueue(10_000)
    queue.push(rider(0.0), 0.0)
    for number in range(5000):
        passing = rider(float(number))
        queue.push(passing, 0.0)
        passing.settle(Cancelled("the caller went away"))

    del passing
    gc.collect()  # what the tests before have left in circles
    assert sum(type(one) is Rider for one in gc.get_objects()) < 200
