"""The order of the runs: every factor in every round, shuffled, the same each time."""

from __future__ import annotations

import overload


def test_every_round_has_every_factor_in_a_fixed_order_of_its_own() -> None:
    order = overload.order(2)
    rounds = [[factor for number, factor in order if number == wanted] for wanted in range(2)]
    assert all(sorted(each) == sorted(overload.FACTORS) for each in rounds)
    assert rounds[0] != rounds[1]
    assert order == overload.order(2)
