"""Quotas against a clock of the test's own: what a caller gets in a time, what it is told, what is counted."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.config import AccessSettings, Caller, Quota
from headrace.errors import QuotaExceeded, status_of
from headrace.gateway.quotas import MAX_RETRY_MS, Meter, Quotas, metered

DIGEST = "0" * 64


@dataclass
class Time:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def enters(meter: Meter) -> str:
    """What becomes of a request that is over at once: "" = it is let in."""
    try:
        meter.enter()
    except QuotaExceeded as refused:
        return str(refused)
    meter.leave()
    return ""


def test_a_burst_is_let_in_and_then_so_many_a_second() -> None:
    time = Time()
    meter = Meter(Quota(requests_per_second=4, burst_s=2), time)

    at_once = [enters(meter) for _ in range(10)]
    time.now += 1
    a_second_later = [enters(meter) for _ in range(6)]

    refused = "this caller's quota is used up: 4 requests a second"
    assert at_once == [""] * 8 + [refused] * 2
    assert a_second_later == [""] * 4 + [refused] * 2
    assert meter.refused == {"requests": 4}


def test_who_waits_as_long_as_told_is_let_in() -> None:
    time = Time()
    meter = Meter(Quota(requests_per_second=3, burst_s=1), time)
    while not enters(meter):
        pass
    with pytest.raises(QuotaExceeded) as caught:
        meter.enter()

    time.now += caught.value.retry_ms / 1000

    assert enters(meter) == ""
    assert caught.value.retry_ms == 334


def test_a_slow_rate_is_never_told_to_wait_for_longer_than_a_minute() -> None:
    meter = Meter(Quota(requests_per_second=0.001), Time())
    assert enters(meter) == ""
    with pytest.raises(QuotaExceeded) as caught:
        meter.enter()

    assert caught.value.retry_ms == MAX_RETRY_MS


@given(
    rate=st.floats(0.1, 1000),
    burst_s=st.floats(0.1, 10),
    gaps=st.lists(st.floats(0, 3), min_size=1, max_size=60),
)
def test_in_no_time_more_is_let_in_than_the_burst_and_the_rate(rate: float, burst_s: float, gaps: list[float]) -> None:
    time = Time()
    meter = Meter(Quota(requests_per_second=rate, burst_s=burst_s), time)
    let_in = []
    for gap in gaps:
        time.now += gap
        if not enters(meter):
            let_in.append(time.now)

    most = max(1.0, rate * burst_s)
    for (first, begun), (last, ended) in itertools.combinations(enumerate(let_in), 2):
        assert last - first + 1 <= most + rate * (ended - begun) + 1e-6
    assert let_in, "the first is always let in"


@given(
    rate=st.floats(1, 1000),
    sizes=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 256)), min_size=1, max_size=60),
)
def test_rows_are_paid_for_afterwards_and_nobody_gets_further_into_debt_than_one_request(
    rate: float, sizes: list[tuple[float, int]]
) -> None:
    time = Time()
    meter = Meter(Quota(rows_per_second=rate), time)
    begun, taken, largest = time.now, 0, 0
    for gap, rows in sizes:
        time.now += gap
        if not enters(meter):
            meter.spend(rows, rows)
            taken, largest = taken + rows, max(largest, rows)

        assert taken <= rate + rate * (time.now - begun) + largest + 1e-6


def test_a_debt_of_tokens_is_waited_for() -> None:
    time = Time()
    meter = Meter(Quota(tokens_per_second=100), time)
    assert enters(meter) == ""
    meter.spend(1, 1000)
    with pytest.raises(QuotaExceeded, match="100 tokens a second") as caught:
        meter.enter()

    assert caught.value.retry_ms == 9010
    assert meter.in_flight == 0


def test_so_many_at_a_time_and_not_one_more_until_one_is_over() -> None:
    meter = Meter(Quota(max_in_flight=2), Time())
    meter.enter()
    meter.enter()

    assert enters(meter) == "this caller's quota is used up: 2 requests at a time"
    meter.leave()
    assert enters(meter) == ""
    assert meter.refused == {"in_flight": 1}


def test_a_refused_request_costs_its_caller_nothing_more() -> None:
    time = Time()
    meter = Meter(Quota(requests_per_second=1, max_in_flight=1), time)
    meter.enter()
    for _ in range(100):
        assert enters(meter)
    meter.leave()
    time.now += 1

    assert enters(meter) == ""


def test_callers_have_meters_of_their_own_and_those_without_a_quota_the_default() -> None:
    callers: Any = (
        Caller(name="own", token_sha256=DIGEST, may=("infer",), quota=Quota(max_in_flight=1)),
        Caller(name="plain", token_sha256=DIGEST, may=("infer",)),
        Caller(name="other", token_sha256=DIGEST, may=("infer",)),
    )
    quotas = Quotas(AccessSettings(callers=callers, quota=Quota(max_in_flight=2)))
    found = {name: quotas.of(name) for name in ("own", "plain", "other")}
    assert all(found.values())
    for meter in found.values():
        assert meter is not None
        meter.enter()

    assert [bool(enters(meter)) for meter in found.values() if meter] == [True, False, False]
    assert quotas.of("own") is found["own"]
    assert Quotas(AccessSettings(callers=callers)).of("plain") is None


def test_each_request_of_a_stream_is_counted_and_is_over_when_it_ends() -> None:
    class Call:
        meter: Meter = Meter(Quota(max_in_flight=1), Time())
        leaving: Any = None

    call = Call()
    with metered(call):
        with pytest.raises(QuotaExceeded), metered(call):
            pytest.fail("it was let in")
    with pytest.raises(ValueError, match="theirs"), metered(call):
        raise ValueError("theirs")

    assert call.meter.in_flight == 0


def test_a_call_that_was_counted_at_the_door_is_not_counted_again() -> None:
    class Call:
        meter: Meter = Meter(Quota(max_in_flight=1), Time())
        leaving: Any = None

    call = Call()
    call.meter.enter()
    call.leaving = call.meter.leave
    with metered(call):
        assert call.meter.in_flight == 1

    assert call.meter.in_flight == 1


def test_a_quota_is_told_as_the_other_refusals_for_overload_are() -> None:
    error = QuotaExceeded("x")

    assert status_of(error) == "RESOURCE_EXHAUSTED"
    assert status_of(error, oip=True) == "UNAVAILABLE"
    assert status_of(error, oip=True, status_codes="grpc") == "RESOURCE_EXHAUSTED"
