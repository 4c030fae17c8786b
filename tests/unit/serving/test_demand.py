"""What a replica makes of what gateways say, and what Serve's policy makes of that."""

from __future__ import annotations

import gc
import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.serving.demand import FORGET_S, Demand, Word
from headrace.serving.scaling import BACKLOG, SLACK, WORK, follow_deadlines
from headrace.testing.clock import FakeClock
from headrace.v1 import replica_pb2


def batch(gateway: str = "g", **said: Any) -> replica_pb2.PackedBatch:
    fields = {"backlog_s": 0.0, "work": 0.0, "slack_s": math.inf, "replicas": 1} | said
    return replica_pb2.PackedBatch(gateway_id=gateway, **fields)


def hear(demand: Demand, *batches: replica_pb2.PackedBatch) -> None:
    for one in batches:
        demand.came(one)
        demand.went(one)


def wanted(*reports: dict[str, float], now: int = 3) -> int:
    """What the policy says to replicas that report this."""
    names = {name for report in reports for name in report}
    metrics = {name: {i: report[name] for i, report in enumerate(reports) if name in report} for name in names}
    series = {name: {i: [SimpleNamespace(value=value)] for i, value in said.items()} for name, said in metrics.items()}
    figures = {"aggregated_metrics": metrics, "raw_metrics": series, "policy_state": {}, "current_time": 0.0}
    return follow_deadlines(SimpleNamespace(**figures, target_num_replicas=now, current_num_replicas=now))[0]


def test_the_parts_of_all_replicas_add_up_to_what_the_gateways_said() -> None:
    replicas = [Demand(FakeClock().now) for _ in range(3)]
    for replica in replicas:
        hear(replica, batch("one", backlog_s=0.3, work=1.2, replicas=3), batch("two", work=0.6, replicas=3))
    reports = [replica.report() for replica in replicas]

    assert sum(report[BACKLOG] for report in reports) == pytest.approx(0.3)
    assert sum(report[WORK] for report in reports) == pytest.approx(1.8)


def test_a_gateways_last_word_counts_and_the_least_slack_of_all() -> None:
    demand = Demand(FakeClock().now)
    hear(demand, batch("one", work=9.0, slack_s=0.001), batch("one", work=1.0, slack_s=0.4), batch("two", slack_s=0.2))

    assert demand.report() == {BACKLOG: 0.0, WORK: 1.0, SLACK: 0.2}


def test_a_replica_that_nobody_asks_any_more_says_so_and_the_version_shrinks() -> None:
    clock = FakeClock()
    demand = Demand(clock.now)
    hear(demand, batch(work=2.0))
    assert wanted(demand.report()) == 3
    clock.advance(FORGET_S + 0.1)

    assert demand.report() == {BACKLOG: 0.0, WORK: 0.0}
    assert wanted(demand.report(), now=3) == 2


def test_a_replica_that_says_nothing_holds_the_number() -> None:
    assert wanted(now=5) == 5


def test_a_word_counts_while_a_batch_of_its_gateway_is_here_however_long_it_runs() -> None:
    """A model that takes longer than a word is kept for would otherwise look idle at full load."""
    clock = FakeClock()
    demand = Demand(clock.now)
    slow = batch(work=2.0)
    demand.came(slow)
    clock.advance(10 * FORGET_S)
    assert demand.report()[WORK] == 2.0
    demand.went(slow)
    clock.advance(0.9 * FORGET_S)
    assert demand.report()[WORK] == 2.0
    clock.advance(0.2 * FORGET_S)

    assert demand.report()[WORK] == 0.0


def test_copies_of_a_gateway_neither_hide_nor_replace_what_its_callers_wait_for() -> None:
    demand = Demand(FakeClock().now)
    hear(demand, batch(work=1.0, backlog_s=0.5, slack_s=0.1), batch(shadow=True, work=0.2))

    assert demand.report() == {BACKLOG: 0.5, WORK: pytest.approx(1.2), SLACK: 0.1}


def test_a_sender_that_does_not_speak_of_replicas_says_nothing() -> None:
    demand = Demand(FakeClock().now)
    hear(demand, batch(work=7.0, slack_s=0.0, replicas=0))

    assert demand.report() == {BACKLOG: 0.0, WORK: 0.0}


figures = st.floats(allow_nan=True, allow_infinity=True)


@given(said=st.lists(st.tuples(figures, figures, figures, st.integers(0, 5), st.booleans()), max_size=5))
def test_whatever_comes_over_the_wire_is_told_in_plain_finite_numbers(said: list[tuple[Any, ...]]) -> None:
    """Serve turns the hook off for good when it meets another type, and its controller must not raise."""
    demand = Demand(FakeClock().now)
    for number, (backlog_s, work, slack_s, replicas, shadow) in enumerate(said):
        words = {"backlog_s": backlog_s, "work": work, "slack_s": slack_s, "replicas": replicas}
        hear(demand, batch(str(number), shadow=shadow, **words))
    report = demand.report()

    assert {WORK, BACKLOG} <= report.keys()
    assert all(type(value) is float and math.isfinite(value) and value >= 0 for value in report.values())


def test_gateways_that_come_and_go_leave_nothing_behind_though_nobody_reads() -> None:
    clock = FakeClock()
    demand = Demand(clock.now)
    for number in range(1000):
        hear(demand, batch(f"gateway-{number}", work=1.0))
        clock.advance(0.1)

    assert sum(type(one) is Word for one in gc.get_objects()) < 30
