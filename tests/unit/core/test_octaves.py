"""Buckets of latencies: a constant ratio wide, in order, and one more for what never came."""

from __future__ import annotations

from math import floor, log2

from hypothesis import given
from hypothesis import strategies as st

from headrace.core.octaves import BUCKETS, NEVER, bucket


@given(st.integers(0, 2**40))
def test_a_bucket_is_a_sixteenth_of_an_octave_and_never_that_of_what_never_came(us: int) -> None:
    assert bucket(us) == (min(floor(16 * log2(us)), 511) if us else 0)
    assert bucket(us) <= bucket(us + 1) < NEVER == BUCKETS - 1
