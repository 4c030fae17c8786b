"""A request's stages leave no gap, and a step's share of the hot path is of the round that was disturbed least."""

from __future__ import annotations

from collections import Counter

import budget
import hot_path
import machine
import pytest

from headrace.telemetry.reading import StoredSpan, Trace


def span(name: str, start_us: int, end_us: int, kind: int = 1) -> StoredSpan:
    times = start_us * 1000, end_us * 1000
    return StoredSpan("s", name, "t", name, "", *times, {"headrace.batch.size": 8}, (), error=False, kind=kind)


REQUEST = Trace(
    span("rpc", 0, 100, kind=2),
    own=[span("rpc", 0, 100, kind=2), span("queue", 5, 15), span("execute", 15, 95)],
    batch=[
        span("batch", 15, 95),
        span("dispatch", 16, 17),  # lost with its replica
        span("dispatch", 20, 90),
        span("replica.batch", 30, 80),
        span("unpack", 34, 36),
        span("h2d", 36, 37),
        span("forward", 37, 70),
        span("d2h", 70, 71),
    ],
)


def test_the_stages_add_up_to_the_request() -> None:
    stages = budget.stages_us(REQUEST)

    assert sum(us for name, us in stages.items() if name != "rpc") == stages["rpc"] == 100
    assert (stages["decode, admit"], stages["queue"], stages["pack"], stages["replica: forward"]) == (5, 10, 5, 33)
    assert stages["send, wire, receive"] == 20
    assert budget.batch_size(REQUEST) == 8


def test_each_stage_has_its_own_median() -> None:
    assert budget.medians([{"queue": 1.0}, {"queue": 9.0}, {"queue": 2.0}]) == {"queue": 2.0}
    assert budget.medians([]) == {}


def test_a_thread_is_part_of_its_process() -> None:
    pid = machine.os.getpid()

    assert 0 <= machine.cpu_seconds(f"{pid}/task/{pid}") <= machine.cpu_seconds(pid)


def test_the_least_disturbed_round_is_told() -> None:
    rounds = [Counter({"all": 9000, "decode": 2000}), Counter({"all": 5000, "decode": 1000})]

    found = hot_path.told(rounds, 1)

    assert (found["all"], found["decode"], found[hot_path.REST]) == (5.0, 1.0, 4.0)
    assert sum(found.values()) - found["all"] == pytest.approx(found["all"])
