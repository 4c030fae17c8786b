"""Buckets of latencies: a constant ratio wide, in order, and one more for what never came."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.core.octaves import BUCKETS, NEVER, bucket


@given(st.integers(1, 2**32 - 1))
def test_a_bucket_is_a_sixteenth_of_an_octave_wide(us: int) -> None:
    place = bucket(us)

    assert 2 ** (place / 16) <= us * (1 + 1e-12)
    assert us * (1 - 1e-12) <= 2 ** ((place + 1) / 16)
    assert place <= bucket(us + 1)


def test_what_lies_outside_is_in_the_first_or_the_last_and_never_where_what_never_came_is() -> None:
    assert [bucket(us) for us in (-5, 0, 1)] == [0, 0, 0]
    assert [bucket(us) for us in (2**32, 2**60)] == [NEVER - 1] * 2
    assert NEVER == BUCKETS - 1
