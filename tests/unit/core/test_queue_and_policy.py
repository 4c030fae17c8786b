"""When a batch closes, who rides in it, and that nobody is settled twice or forgotten."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.core.cost import CostModel
from headrace.core.inference import Answer, Inference
from headrace.core.policy import Budget, CloseReason, Room, close, look_again_at, take
from headrace.core.queue import RiderQueue
from headrace.core.records import RpcRecord
from headrace.core.rider import Rider
from headrace.core.tensors import ModelSpec, TensorSpec
from headrace.errors import Cancelled, DeadlinePassed, Overloaded
from headrace.testing.clock import FakeClock

SPEC = ModelSpec("m", "1", "", (TensorSpec("x", "FP32", (1,)),), (TensorSpec("y", "FP32", (1,)),))
IDLE = Room(0)
BUDGET = Budget(rows=4, tokens=100)


def rider(tokens: int = 10, deadline: float = float("inf"), woken: list[Rider] | None = None) -> Rider:
    inference = Inference(SPEC, [b"1234"], 1, (), tokens, deadline)
    made = Rider(
        inference, RpcRecord(b"t" * 16, 1, 0, True, 0), lambda: woken.append(made) if woken is not None else None
    )
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

    assert close(queue, BUDGET, Room(running_rows=3), CostModel(), now=0.0) is None
    assert close(queue, BUDGET, Room(running_rows=2), CostModel(), now=0.0) is CloseReason.SLOT


def test_a_full_budget_closes_whatever_runs() -> None:
    by_rows = queue_of(*(rider() for _ in range(4)))
    by_tokens = queue_of(rider(tokens=60), rider(tokens=60))

    assert close(by_rows, BUDGET, Room(running_rows=50), CostModel(), now=0.0) is CloseReason.ROWS
    assert close(by_tokens, BUDGET, Room(running_rows=50), CostModel(), now=0.0) is CloseReason.TOKENS


def test_a_queue_delay_waits_for_company_until_the_oldest_has_waited_long_enough() -> None:
    clock, delayed = FakeClock(0), Budget(rows=4, tokens=100, delay_s=0.01)
    queue = queue_of(rider())

    assert close(queue, delayed, IDLE, CostModel(), clock.now()) is None
    assert look_again_at(queue, delayed, CostModel()) == 0.01
    clock.advance(0.01)
    assert close(queue, delayed, IDLE, CostModel(), clock.now()) is CloseReason.DELAY


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
    busy = Room(running_rows=1)
    late, fine = rider(deadline=0.004), rider(deadline=1.0)

    taken = take(queue_of(late, fine), BUDGET, busy, CostModel(initial_s=0.005), now=0.0)

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
    assert sum(1 for _ in queue._riders) < 200


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


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(1, 60), st.floats(0.001, 0.2)),
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
    clock, queue, cost, woken = FakeClock(0), RiderQueue(30), CostModel(0.001), []
    everyone: list[Rider] = []
    running: list[list[Rider]] = []
    for name, *arguments in actions:
        if name == "arrive":
            new = rider(arguments[0], clock.now() + arguments[1], woken)
            try:
                queue.push(new, clock.now())
                everyone.append(new)
            except Overloaded:
                assert queue.rows == 30
        elif name == "leave" and everyone:
            everyone[arguments[0] % len(everyone)].settle(Cancelled("gone"))
        elif name == "take":
            taken = take(queue, BUDGET, Room(arguments[0]), cost, clock.now())
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
