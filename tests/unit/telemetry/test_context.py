"""W3C trace context: what is taken from a caller, what is not, and who is sampled."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.records import TRACE, batch_of, rider

from headrace.telemetry import context, timings
from headrace.telemetry.context import Context, Sampling


@given(st.binary(min_size=16, max_size=16), st.integers(1, 2**64 - 1), st.booleans())
def test_a_valid_traceparent_is_parsed(trace_id: bytes, span_id: int, sampled: bool) -> None:  # noqa: FBT001
    found = context.parse(context.header(trace_id, span_id, sampled=sampled))

    assert found == (Context(trace_id, span_id, sampled) if any(trace_id) else None)


@given(st.text(max_size=80))
def test_any_other_text_starts_a_new_trace_instead_of_failing(text: str) -> None:
    assert context.parse(text) is None


def test_blank_flags_and_odd_versions_start_a_new_trace() -> None:
    good = f"{TRACE.hex()}-{7:016x}"

    assert context.parse(f"00-{good}-01") == (TRACE, 7, True)
    assert context.parse(f"00-{good}-  ") is None
    assert context.parse(f"zz-{good}-01") is None
    assert context.parse(f"ff-{good}-01") is None
    assert context.parse(f"01-{good}-01-more") == (TRACE, 7, True)


def test_a_tracestate_is_carried_beside_a_valid_parent_only() -> None:
    parent = ("traceparent", f"00-{TRACE.hex()}-{7:016x}-01")

    assert context.read([parent, ("tracestate", "a=1"), ("x", b"y")]) == ((TRACE, 7, True), "a=1")
    assert context.read([("tracestate", "a=1"), parent, ("tracestate", "b=2")])[1] == "a=1,b=2"
    assert context.read([("tracestate", "a=1")]) == (None, "")
    assert context.read([parent, ("tracestate", "a=" + "1" * 600)])[1] == ""
    for unfit in ("a=\t", "a=\x80", "a=é", "a=\r\nx: y", "a=\x00", "a=\x7f"):
        assert context.read([parent, ("tracestate", unfit)]) == ((TRACE, 7, True), "")
    assert context.read([parent, ("baggage", "card=4111111111111111")])[1] == ""


def test_a_callers_flag_is_honoured_and_the_share_decides_for_the_rest() -> None:
    declined = Context(TRACE, 1, sampled=False)

    assert Sampling().begin(declined)[3] is False
    assert Sampling().begin(None)[3] is True
    assert Sampling(0.0).begin(None)[3] is False
    assert Sampling(0.0).begin(Context(TRACE, 1, sampled=True))[3] is True
    assert Sampling(0.0, by_caller=False).begin(Context(TRACE, 1, sampled=True))[3] is False
    assert Sampling(1.0, by_caller=False).begin(declined)[3] is True
    kept = sum(Sampling(0.25).begin(None)[3] for _ in range(4000))
    assert 850 < kept < 1150


def test_a_context_survives_the_replica_wire() -> None:
    assert context.unpack(context.pack(TRACE, 5, sampled=True)) == (TRACE, 5, True)
    assert context.unpack(b"") is None


def test_a_caller_is_told_its_place_and_our_timings_as_far_as_it_got() -> None:
    answered = rider(tracestate="a=1")
    batch_of(answered)
    expired = rider(code="UNAVAILABLE", reason="DeadlinePassed", sampled=False)

    told = dict(timings.trailing(answered))
    assert told["traceparent"] == f"00-{answered.trace_id.hex()}-{answered.span_id:016x}-01"
    assert told["tracestate"] == "a=1"
    assert told["server-timing"] == "queue;dur=0.900, execute;dur=1.000, forward;dur=111.000"
    assert dict(timings.trailing(expired)) == {
        "traceparent": f"00-{expired.trace_id.hex()}-{expired.span_id:016x}-00",
        "server-timing": "queue;dur=1.900",
    }
    assert dict(timings.trailing(rider(queued=False)))["server-timing"] == "queue;dur=0.000"
