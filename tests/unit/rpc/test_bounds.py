"""Who may connect: as many as there may be, as many from one address, and everybody again who was there before."""

from __future__ import annotations

import resource
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.rpc.bounds import Bounds, Crowd, address_of


@given(
    most=st.integers(1, 8),
    of_one=st.integers(0, 8),
    moves=st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=60),
)
def test_there_are_never_more_than_may_be(most: int, of_one: int, moves: list[tuple[bool, str]]) -> None:
    crowd, here = Crowd(most, of_one), Counter[str]()
    for comes, address in moves:
        if not comes:
            if here[address]:
                crowd.leave(address)
                here[address] -= 1
            continue
        reached = crowd.enter(address)
        expected = "connections" if here.total() >= most else "address" if of_one and here[address] >= of_one else ""
        assert reached == expected
        here[address] += not reached

    assert crowd.size == here.total() <= most


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::1", "2001:db8:1:2::"),
        ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
    ],
)
def test_an_address_is_a_customers_network(host: str, address: str) -> None:
    assert address_of(host) == address


def test_callers_get_three_quarters_of_the_files_unless_told() -> None:
    assert Bounds().most == resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3 // 4
    assert Bounds(connections=7).most == 7
