"""The networks' rules, every one of them at its border; and a policy that keeps to them and can be learnt from."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_models import retries, wire
from headrace_models.retries import MASTERCARD, VISA

EVERYTHING = tuple(range(len(wire.ACTIONS)))


@pytest.mark.parametrize(("scheme", "advice"), list(product(retries.SCHEMES, wire.ADVICE)))
def test_every_advice_of_every_network(scheme: str, advice: str) -> None:
    """Only these three end a payment, each with its own network, and wherever in the history they stand."""
    final = {(VISA, "visa_category_1"), (MASTERCARD, "mastercard_mac_03"), (MASTERCARD, "mastercard_mac_21")}

    for history in ([advice], [advice, ""], ["", advice, "visa_category_2"]):
        found = retries.allowed(scheme, history, [])
        assert found.mask.all() == ((scheme, advice) not in final)
        assert found.mask.any() == found.mask.all()
        assert all(bool(rule) != allowed for rule, allowed in zip(found.rules, found.mask, strict=True))


@pytest.mark.parametrize("limit", retries.LIMITS)
def test_every_limit_at_its_border(limit: retries.Limit) -> None:
    now = EVERYTHING[:1]
    within, outside = [limit.window_h - 1e-6] * limit.attempts, [limit.window_h] * limit.attempts

    assert limit.rule in retries.allowed(limit.scheme, [], within, now).rules
    assert limit.rule not in retries.allowed(limit.scheme, [], within[:-1], now).rules
    assert limit.rule not in retries.allowed(limit.scheme, [], outside, now).rules
    other = VISA if limit.scheme == MASTERCARD else MASTERCARD
    assert limit.rule not in retries.allowed(other, [], within, now).rules


def test_an_action_is_judged_at_the_moment_it_would_happen() -> None:
    """Ten attempts within the last hour forbid to try now; tomorrow they are no longer of the last 24 hours."""
    found = retries.allowed(MASTERCARD, [], [0.5] * 10)
    allowed = {wire.ACTIONS[i] for i in np.flatnonzero(found.mask)}

    assert allowed == {"plus_24h", "plus_72h"}
    assert found.rules[0] == "mastercard-10-in-24-hours"


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(ValueError, match="scheme 'amex' is not one of visa, mastercard"):
        retries.allowed("amex", [], [])


chances = st.lists(st.floats(0, 1), min_size=8, max_size=8)
masks = st.lists(st.booleans(), min_size=8, max_size=8)


@given(chances, masks, st.floats(0.01, 10_000), st.floats(0, 5))
def test_a_policy_sums_to_one_never_picks_what_is_masked_and_explores_the_rest(
    approve: list[float], mask: list[bool], amount: float, cost: float
) -> None:
    allowed = np.array(mask)
    policy = retries.probabilities(approve, allowed, amount, cost)

    assert policy.sum() == pytest.approx(1)
    assert (policy[:-1][~allowed] == 0).all()
    assert (policy[:-1][allowed] >= 0.02 - 1e-12).all()


@given(chances, masks, st.floats(0, 0.999999))
def test_what_is_chosen_is_logged_with_the_probability_it_was_chosen_with(
    approve: list[float], mask: list[bool], draw: float
) -> None:
    options = retries.Allowed(np.array(mask), tuple("" if m else "rule" for m in mask))
    policy = retries.probabilities(approve, options.mask, 50, 0.1)

    choice = retries.choose(approve, options, 50, 0.1, draw)

    place = len(policy) - 1 if choice.action == retries.STOP else choice.action
    assert choice.propensity == policy[place] > 0
    assert choice.rule == ("rule" if not any(mask) else "")


def test_when_everything_is_forbidden_the_answer_is_not_to_retry_and_which_rule_says_so() -> None:
    options = retries.allowed(VISA, ["visa_category_1"], [])

    choice = retries.choose([0.9] * 8, options, 100, 0.1, 0.3)

    assert (choice.action, choice.rule, choice.propensity) == (retries.STOP, "visa-category-1", 1.0)


def test_what_is_no_action_does_not_hide_the_rule_that_ends_a_payment() -> None:
    options = retries.allowed(VISA, ["visa_category_1"], [], [retries.PAD, 0])

    assert retries.choose([0.9, 0.9], options, 100, 0.1, 0.3).rule == "visa-category-1"


def test_a_choice_names_the_candidate_and_not_its_place() -> None:
    options = retries.allowed(VISA, [], [], [4, 2])

    assert retries.choose([0.9, 0.0], options, 100, 0.1, 0.5).action == 4


def test_the_likeliest_action_is_chosen_most_and_a_hopeless_payment_is_left_alone() -> None:
    options = retries.allowed(VISA, [], [])
    hopeful, hopeless = [0.1] * 8, [0.0] * 8
    hopeful[4] = 0.8

    assert retries.probabilities(hopeful, options.mask, 100, 0.1).argmax() == 4
    assert retries.probabilities(hopeless, options.mask, 2, 0.5).argmax() == 8
