"""When a batch closes, who rides in it, and that nobody is settled twice or forgotten."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.core.cost import CostModel
from headrace.core.forecast import Forecast
from headrace.core.inference import Answer, Inference
from headrace.core.ordering import Ordering
from headrace.core.policy import Budget, CloseReason, Room, close, look_again_at, take
from headrace.core.queue import LevelPolicy, RiderQueue
from headrace.core.records import RpcRecord
from headrace.core.rider import Rider
from headrace.core.tensors import ModelSpec, TensorSpec
from headrace.errors import Cancelled, DeadlinePassed, Overloaded
from headrace.testing.clock import FakeClock

SPEC = ModelSpec("m", "1", "", (TensorSpec("x", "FP32", (1,)),), (TensorSpec("y", "FP32", (1,)),))
IDLE = Room()
BUSY = Room(idle=False)
BUDGET = Budget(rows=4, tokens=100)


def rider(tokens: int = 10, deadline: float = float("inf"), woken: list[Rider] | None = None, level: int = 0) -> Rider:
    inference = Inference(SPEC, [b"1234"], 1, (), tokens, deadline)
    record = RpcRecord(b"t" * 16, 1, 0, True, 0)
    made = Rider(inference, record, lambda: woken.append(made) if woken is not None else None, level)
    return made


def queue_of(*riders: Rider, max_rows: int = 100, at: float = 0.0) -> RiderQueue:
    queue = RiderQueue(max_rows)
    for one in riders:
        queue.push(one, at)
    return queue


def test_an_idle_replica_takes_whatever_waits_at_once() -> None:
    assert close(queue_of(rider()), BUDGET, IDLE, CostModel(), now=0.0) is CloseReason.SLOT


def test_nothing_closes_without_room_or_without_riders() -> None:
    assert close(queue_of(rider()), BUDGET, None, CostModel(), now=0.0) is None
    assert close(queue_of(), BUDGET, IDLE, CostModel(), now=0.0) is None


def test_a_second_batch_is_staged_only_when_as_many_wait_as_run() -> None:
    queue = queue_of(rider(), rider())

    assert close(queue, BUDGET, Room(enough_rows=3, idle=False), CostModel(), now=0.0) is None
    assert close(queue, BUDGET, Room(enough_rows=2, idle=False), CostModel(), now=0.0) is CloseReason.SLOT


def test_a_batch_is_staged_just_in_time_and_not_before() -> None:
    queue, room = queue_of(rider(), rider()), Room(enough_rows=2, stage_at=0.01, starts_at=0.012, idle=False)

    assert close(queue, BUDGET, room, CostModel(), now=0.0) is None
    assert look_again_at(queue, BUDGET, room, CostModel(), now=0.0) == 0.01
    assert close(queue, BUDGET, room, CostModel(), now=0.01) is CloseReason.SLOT


def test_who_would_be_late_behind_the_running_batch_is_not_staged() -> None:
    late, fine = rider(deadline=0.011), rider(deadline=1.0)
    room = Room(starts_at=0.01, idle=False)

    assert take(queue_of(late, fine), BUDGET, room, CostModel(initial_s=0.005), now=0.0) == [fine]
    assert isinstance(late.outcome, DeadlinePassed)


def test_a_full_budget_closes_whatever_runs() -> None:
    by_rows = queue_of(*(rider() for _ in range(4)))
    by_tokens = queue_of(rider(tokens=60), rider(tokens=60))

    assert close(by_rows, BUDGET, Room(enough_rows=50, idle=False), CostModel(), now=0.0) is CloseReason.ROWS
    assert close(by_tokens, BUDGET, Room(enough_rows=50, idle=False), CostModel(), now=0.0) is CloseReason.TOKENS


def test_a_queue_delay_waits_for_company_until_the_oldest_has_waited_long_enough() -> None:
    clock, delayed = FakeClock(0), Budget(rows=4, tokens=100, delay_s=0.01)
    queue = queue_of(rider())

    assert close(queue, delayed, IDLE, CostModel(), clock.now()) is None
    assert look_again_at(queue, delayed, IDLE, CostModel(), clock.now()) == 0.01
    clock.advance(0.01)
    assert close(queue, delayed, IDLE, CostModel(), clock.now()) is CloseReason.DELAY


def test_a_preferred_size_ends_the_wait_and_is_what_goes() -> None:
    delayed = Budget(rows=8, tokens=1000, delay_s=1.0, preferred=(2, 4))

    assert close(queue_of(rider()), delayed, IDLE, CostModel(), now=0.0) is None
    queue = queue_of(*(rider() for _ in range(5)))
    assert close(queue, delayed, IDLE, CostModel(), now=0.0) is CloseReason.PREFERRED
    assert len(take(queue, delayed, IDLE, CostModel(), now=0.0)) == 4
    assert close(queue, delayed, IDLE, CostModel(), now=0.0) is None
    assert close(queue, delayed, IDLE, CostModel(), now=1.0) is CloseReason.DELAY


def test_a_tight_deadline_ends_the_wait_for_company() -> None:
    delayed = Budget(rows=4, tokens=100, delay_s=1.0)
    queue = queue_of(rider(deadline=0.005))

    assert close(queue, delayed, IDLE, CostModel(initial_s=0.005), now=0.0) is CloseReason.DEADLINE


def test_a_batch_stays_within_rows_and_tokens_and_takes_the_oldest_first() -> None:
    riders = [rider(tokens=40) for _ in range(5)]
    queue = queue_of(*riders)

    assert take(queue, BUDGET, IDLE, CostModel(), now=0.0) == riders[:2]
    assert queue.rows == 3
    assert queue.tokens == 120


def test_a_rider_larger_than_the_budget_rides_alone() -> None:
    large = rider(tokens=1000)

    assert take(queue_of(large, rider()), BUDGET, IDLE, CostModel(), now=0.0) == [large]


def test_a_rider_who_cannot_make_it_is_told_so_and_takes_no_place() -> None:
    late, fine = rider(deadline=0.004), rider(deadline=1.0)

    taken = take(queue_of(late, fine), BUDGET, BUSY, CostModel(initial_s=0.005), now=0.0)

    assert taken == [fine]
    assert isinstance(late.outcome, DeadlinePassed)


def test_an_idle_replica_tries_a_tight_rider_whatever_the_prediction() -> None:
    tight = rider(deadline=0.004)

    assert take(queue_of(tight), BUDGET, IDLE, CostModel(initial_s=10.0), now=0.0) == [tight]


def test_a_batch_is_cut_where_the_next_rider_would_make_the_tightest_miss() -> None:
    cost = CostModel()
    for tokens in (10, 20, 30, 40) * 10:
        cost.observe(tokens, tokens * 0.001)
    tight, heavy = rider(tokens=10, deadline=0.03), rider(tokens=40)

    assert take(queue_of(tight, heavy), BUDGET, IDLE, cost, now=0.0) == [tight]


def test_a_full_queue_refuses_and_a_settled_rider_frees_its_place() -> None:
    first, second = rider(), rider()
    queue = queue_of(first, second, max_rows=2)

    with pytest.raises(Overloaded, match="Exceeds maximum queue size"):
        queue.push(rider(), 0.0)
    first.settle(Cancelled("gone"))
    queue.push(rider(), 0.0)

    assert queue.rows == 2


def test_departed_riders_are_swept_so_that_the_deque_stays_small() -> None:
    queue = queue_of(rider(), max_rows=10_000)
    for _ in range(10_000):
        gone = rider()
        queue.push(gone, 0.0)
        gone.settle(Cancelled("gone"))

    assert len(queue) == 1
    assert sum(len(line.riders) for line in queue._lines()) < 200


def test_the_cost_model_learns_a_line_and_shrugs_off_a_pause() -> None:
    cost = CostModel()
    for tokens in (100, 200, 300, 400) * 20:
        cost.observe(tokens, 0.001 + 0.00001 * tokens)
    before = cost.predict_s(250)
    cost.observe(250, 5.0)

    assert before == pytest.approx(0.0035, rel=0.01)
    assert cost.predict_s(250) < 2 * before


def test_a_clock_that_jumps_teaches_the_cost_model_nothing() -> None:
    cost = CostModel()
    for tokens in range(100, 200):
        cost.observe(tokens, 0.001 + tokens * 1e-5)
    before = cost.predict_s(150)
    cost.observe(150, -2.0)
    cost.observe(150, 0.0)

    assert cost.predict_s(150) == before


def test_predictions_are_never_negative() -> None:
    cost = CostModel()
    for tokens, seconds in ((10, 0.0), (1000, 0.1), (990, 0.11)) * 10:
        cost.observe(tokens, seconds)

    assert all(cost.predict_s(tokens) >= 0 for tokens in (0, 1, 10, 1000))


THREE = (LevelPolicy(), LevelPolicy(max_rows=2), LevelPolicy())


def drained(queue: RiderQueue) -> list[Rider]:
    taken = []
    while (one := queue.pop()) is not None:
        taken.append(one)
    return taken


def test_levels_are_strict_and_first_come_first_served_inside() -> None:
    queue = RiderQueue(100, THREE)
    low, middle, high, later = rider(level=2), rider(level=1), rider(level=0), rider(level=0)
    for one in (low, middle, high, later):
        queue.push(one, 0.0)

    assert queue.ahead(0) == (2, 20)
    assert queue.ahead(2) == (4, 40)
    assert drained(queue) == [high, later, middle, low]


def test_priorities_are_read_as_triton_reads_them() -> None:
    queue = RiderQueue(100, THREE, default=2)

    assert [queue.level_of(priority) for priority in (0, 1, 2, 3, 4)] == [1, 0, 1, 2, 1]


def test_a_level_has_a_bound_of_its_own() -> None:
    queue = RiderQueue(100, THREE)
    for _ in range(2):
        queue.push(rider(level=1), 0.0)

    with pytest.raises(Overloaded, match="Exceeds maximum queue size"):
        queue.push(rider(level=1), 0.0)
    queue.push(rider(level=2), 0.0)


def test_the_lowest_level_gets_its_share_however_much_waits_above_it() -> None:
    queue = RiderQueue(10_000, (LevelPolicy(), LevelPolicy()), share=0.1)
    for level in (0, 1):
        for _ in range(2000):
            queue.push(rider(level=level), 0.0)

    first = [queue.pop() for _ in range(1000)]

    assert sum(one.level for one in first if one) == pytest.approx(100, abs=2)


def test_the_lowest_level_is_owed_nothing_from_times_when_it_did_not_wait() -> None:
    queue = RiderQueue(10_000, (LevelPolicy(), LevelPolicy()), share=0.5)
    for _ in range(500):
        queue.push(rider(level=0), 0.0)
    for _ in range(400):
        queue.pop()
    queue.push(rider(level=1), 0.0)

    assert queue.next() is not None
    assert queue.next().level == 0  # type: ignore[union-attr]


def test_a_delayed_rider_goes_after_those_of_its_level_who_have_time() -> None:
    queue = RiderQueue(100, (LevelPolicy(delays=True), LevelPolicy()))
    late, fine, low = rider(), rider(), rider(level=1)
    for one in (late, fine, low):
        queue.push(one, 0.0)

    queue.time_is_over(late)

    assert queue.rows == len(queue) == 3
    assert drained(queue) == [fine, late, low]


@pytest.mark.parametrize(
    ("policy", "asked_s", "waits_s"),
    [
        (LevelPolicy(timeout_s=1.0), 0.5, 0.5),
        (LevelPolicy(timeout_s=1.0), 2.0, 1.0),
        (LevelPolicy(timeout_s=1.0), 0.0, 1.0),
        (LevelPolicy(timeout_s=1.0, timeout_may_be_shorter=False), 0.5, 1.0),
        (LevelPolicy(timeout_s=0.0), 0.5, float("inf")),
    ],
)
def test_a_timeout_may_only_shorten_the_default_and_only_where_there_is_one(
    policy: LevelPolicy, asked_s: float, waits_s: float
) -> None:
    assert policy.timeout_of(asked_s) == waits_s


def test_answers_leave_in_the_order_of_coming_and_refusals_at_once() -> None:
    ordering, told = Ordering(), []

    def entered(name: str) -> Rider:
        def wake() -> None:
            told.append(name)

        made = Rider(rider().inference, rider().record, lambda: ordering.settled(made, wake))
        ordering.enter(made, wake)
        return made

    first, second, third, fourth = map(entered, ("first", "second", "third", "fourth"))
    second.settle(Answer([b""], 1, 1, 0))
    third.settle(Cancelled("gone"))
    assert told == ["third"]
    first.settle(Answer([b""], 1, 1, 0))
    assert told == ["third", "first", "second"]
    fourth.settle(Answer([b""], 1, 1, 0))
    assert told == ["third", "first", "second", "fourth"]


def test_a_forecast_refuses_nobody_before_it_has_learnt() -> None:
    forecast = Forecast()

    assert not forecast.misses(10.0, 0.001)


def test_a_forecast_learns_what_comes_on_top_of_the_cost() -> None:
    forecast = Forecast()
    for _ in range(100):
        forecast.learn(0.01, 0.02)

    assert forecast.likely_s(0.01) == pytest.approx(0.02, rel=0.05)
    assert forecast.misses(0.03, 0.05)
    assert not forecast.misses(0.02, 0.05)


def test_a_forecast_is_careful_where_answers_stray() -> None:
    steady, straying = Forecast(), Forecast()
    for turn in range(200):
        steady.learn(0.01, 0.02)
        straying.learn(0.01, 0.01 if turn % 2 else 0.03)

    assert straying.likely_s(0.01) > 1.3 * steady.likely_s(0.01)


def test_one_pause_of_the_machine_is_not_a_trend() -> None:
    forecast = Forecast()
    for _ in range(100):
        forecast.learn(0.01, 0.01)
    forecast.learn(0.01, 10.0)

    assert forecast.likely_s(0.01) < 0.05


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(1, 60), st.floats(0.001, 0.2), st.integers(0, 2)),
        st.tuples(st.just("delay"), st.integers(0, 40)),
        st.tuples(st.just("leave"), st.integers(0, 40)),
        st.tuples(st.just("take"), st.integers(0, 5)),
        st.tuples(st.just("answer"), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.floats(0, 0.05)),
    ),
    max_size=150,
)


@settings(max_examples=300, deadline=None)
@given(ACTIONS)
def test_every_rider_is_settled_exactly_once_whoever_leaves_when(actions: list[tuple]) -> None:  # noqa: C901
    """Arrivals, cancellations, expiries, batches and answers in any order: nobody is woken twice or lost."""
    clock, cost, woken = FakeClock(0), CostModel(0.001), []
    queue = RiderQueue(30, (LevelPolicy(), LevelPolicy(delays=True), LevelPolicy()), share=0.2)
    everyone: list[Rider] = []
    running: list[list[Rider]] = []
    for name, *arguments in actions:
        if name == "arrive":
            new = rider(arguments[0], clock.now() + arguments[1], woken, arguments[2])
            try:
                queue.push(new, clock.now())
                everyone.append(new)
            except Overloaded:
                assert queue.rows == 30
        elif name == "leave" and everyone:
            everyone[arguments[0] % len(everyone)].settle(Cancelled("gone"))
        elif name == "delay" and everyone:
            if (one := everyone[arguments[0] % len(everyone)]).queue is not None:
                queue.time_is_over(one)
        elif name == "take":
            taken = take(queue, BUDGET, Room(idle=not arguments[0]), cost, clock.now())
            assert len(taken) <= BUDGET.rows
            assert len(taken) <= 1 or sum(r.inference.tokens for r in taken) <= BUDGET.tokens
            assert all(one.outcome is None for one in taken)
            running.append(taken)
        elif name == "answer" and running:
            for one in running.pop(arguments[0] % len(running)):
                one.settle(Answer([b""], 1, 1, 0))
        elif name == "wait":
            clock.advance(arguments[0])
        assert queue.rows == sum(1 for _ in queue) == len(queue)
        assert queue.tokens == sum(one.inference.tokens for one in queue)
    while taken := take(queue, BUDGET, IDLE, cost, clock.now()):
        running.append(taken)
    for one in (member for batch in running for member in batch):
        one.settle(Answer([b""], 1, 1, 0))

    assert Counter(map(id, woken)) == Counter(map(id, everyone))
    assert queue.rows == queue.tokens == len(queue) == 0
