"""The simulated world: the same for a seed, fast, and with fraud that no single column gives away."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from headrace_models import features, figures, segments, simulator, wire
from headrace_models.events import Events
from headrace_models.history import Timeline
from headrace_models.simulator import Truth, calendar, draft, fraud, issuer, labels, populate

ORACLE = 0.75
"""Above this AUC a single column would be an answer, not a clue."""


@cache
def world() -> tuple[Events, Truth]:
    return simulator.with_truth(3, days=90, cards=8000, merchants=800, fraud_share=0.01)


def separation(values: npt.NDArray[Any], positive: npt.NDArray[np.bool_]) -> float:
    found = figures.auc(figures.Judged(values.astype(float), positive, np.ones(len(values))))
    return max(found, 1 - found)


def test_the_same_seed_gives_the_same_world_and_another_another() -> None:
    first, again, other = (simulator.with_truth(seed, days=20, cards=400, merchants=50) for seed in (1, 1, 2))

    for name in Events.__slots__:
        assert getattr(first[0], name).tobytes() == getattr(again[0], name).tobytes(), name
    assert first[1].chances.tobytes() == again[1].chances.tobytes()
    assert not np.array_equal(first[0].amount[:50], other[0].amount[:50])


def test_two_hundred_thousand_events_take_less_than_a_second_of_one_core() -> None:
    begun = time.process_time()
    events = simulator.simulate(4, days=120, cards=12_000)

    assert len(events) / (time.process_time() - begun) > 200_000


@pytest.mark.parametrize("share", [0.0, 0.02])
def test_a_share_of_fraud_that_nobody_has_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="fraud_share is"):
        simulator.simulate(1, days=5, cards=50, fraud_share=share)


def test_the_usual_share_of_fraud_is_a_fifth_of_a_per_cent() -> None:
    _, truth = simulator.with_truth(3, days=120, cards=12_000)

    assert 0.001 < (truth.scenario != simulator.ORDINARY).mean() < 0.003


def test_fraud_comes_in_episodes_of_four_kinds() -> None:
    _, truth = world()
    is_fraud = truth.scenario != simulator.ORDINARY

    assert 0.007 < is_fraud.mean() < 0.013
    for kind, share in zip(simulator.NAMES, fraud.SHARES, strict=True):
        of_kind = truth.scenario == kind
        episodes = np.unique(truth.episode[of_kind])
        assert abs(of_kind.sum() / is_fraud.sum() - share) < 0.1
        assert len(episodes) > 5
        assert (of_kind.sum() / len(episodes) > 4) == (kind != draft.FRIENDLY)


def test_a_take_over_is_a_test_charge_and_drains_of_one_card_within_days() -> None:
    events, truth = world()
    for episode in np.unique(truth.episode[truth.scenario == draft.TAKE_OVER])[:40]:
        rows = np.flatnonzero((truth.episode == episode) & (events.attempt_no == 1))
        assert len(np.unique(events.card[rows])) == len(np.unique(events.device[rows])) == 1
        assert events.amount[rows[0]] < 3.3
        assert (events.amount[rows[1:]] > 50).all()
        assert np.ptp(events.ts[rows]) <= 3 * wire.DAY_US


def test_card_testing_shows_across_cards_only() -> None:
    events, truth = world()
    rows = np.flatnonzero(truth.scenario == draft.TESTING)
    declined = (events.outcome[rows] != wire.APPROVED).mean()
    per_card = np.unique(np.stack([truth.episode[rows], events.card[rows]]), axis=1, return_counts=True)[1]

    assert declined > 3 * (events.outcome[truth.scenario == 0] != wire.APPROVED).mean()
    assert np.median(per_card) == 1
    for episode in np.unique(truth.episode[rows])[:20]:
        assert len(np.unique(events.merchant[truth.episode == episode])) == 1


def test_no_raw_column_gives_fraud_away() -> None:
    events, truth = world()
    is_fraud = truth.scenario != simulator.ORDINARY
    early = events.ts < events.ts[0] + 50 * wire.DAY_US
    columns = {"hour": calendar.hour_of(events.ts)}
    columns |= {name: getattr(events, name) for name in Events.__slots__ if name not in ("ts", "label", "label_ts")}
    columns["propensity"] = np.nan_to_num(events.propensity)

    found = {name: separation(values, is_fraud) for name, values in columns.items()}
    for name, values in columns.items():  # a name has no order: what counts is how often it was fraud before
        if values.dtype.kind == "i":
            _, place = np.unique(values, return_inverse=True)
            counts = np.bincount(place[early])
            counts = np.pad(counts, (0, place.max() + 1 - len(counts)))
            frauds = np.bincount(place[early], is_fraud[early], place.max() + 1)
            rate = (frauds + is_fraud.mean()) / (counts + 1)
            found[f"{name} before"] = separation(rate[place[~early]], is_fraud[~early])
    assert {name: round(auc, 2) for name, auc in found.items() if auc > ORACLE} == {}


def test_no_derived_feature_gives_fraud_away() -> None:
    """Numerics, history length and the merchant's aggregates, as the networks read them."""
    events, truth = world()
    late = np.flatnonzero(events.ts - events.ts[0] > 60 * wire.DAY_US)
    is_fraud = truth.scenario[late] != simulator.ORDINARY
    rng = np.random.default_rng(0)
    late = np.concatenate([late[is_fraud], rng.choice(late[~is_fraud], 20_000, replace=False)])
    is_fraud = truth.scenario[late] != simulator.ORDINARY
    inputs, lengths = Timeline(events).packed(late)
    tensors = {name: torch.from_numpy(values) for name, values in inputs.items()}
    numerics = features.card_events(tensors, segments.of(torch.from_numpy(lengths["card"]))).numerics.numpy()
    in_hand = numerics[np.cumsum(lengths["card"]) - 1]
    columns = {f"numeric {i}": in_hand[:, i] for i in range(features.NUMERICS)}
    columns |= {name: inputs["merchant_stats"][:, i] for i, name in enumerate(wire.MERCHANT_STATS)}
    columns |= {f"{axis} history": values for axis, values in lengths.items()}

    found = {name: separation(values, is_fraud) for name, values in columns.items()}
    assert {name: round(auc, 2) for name, auc in found.items() if auc > ORACLE} == {}


def test_fraud_becomes_known_late_sometimes_wrongly_and_what_was_blocked_never() -> None:
    events, truth = world()
    is_fraud = truth.scenario != simulator.ORDINARY
    blocked = events.outcome == labels.CENSORED
    known_fraud = events.label == wire.LABEL_FRAUD
    delay_days = (events.label_ts - events.ts) / wire.DAY_US

    assert (events.label[blocked] == wire.LABEL_UNKNOWN).all()
    assert 9 < np.median(delay_days[known_fraud]) < 20
    assert 0.03 < (delay_days[known_fraud] > 60).mean() < 0.15
    assert np.allclose(delay_days[events.label == wire.LABEL_LEGITIMATE], 60)
    wrong = (known_fraud & ~is_fraud).sum(), ((events.label == wire.LABEL_LEGITIMATE) & is_fraud).sum()
    assert 0 < wrong[0] < 0.02 * is_fraud.sum()
    assert 0 < wrong[1] < 0.02 * is_fraud.sum()


def test_ordinary_life_has_nights_weeks_paydays_sales_and_popular_merchants() -> None:
    events, truth = world()
    ordinary = (truth.scenario == simulator.ORDINARY) & (events.attempt_no == 1) & (events.channel != draft.RECURRING)
    since = events.ts[ordinary] - simulator.START_US
    hour, day = calendar.hour_of(since), since // wire.DAY_US
    weekday = (day + calendar.FIRST_WEEKDAY) % 7
    visits = np.sort(np.unique(events.merchant, return_counts=True)[1])[::-1]
    a_day = np.bincount(day, minlength=90)
    sale = calendar.is_sale(np.arange(90))

    assert np.mean(hour < 5) < 0.5 * np.mean((hour >= 10) & (hour < 15))
    assert np.mean(weekday == 5) > 1.3 * np.mean(weekday == 6)
    assert a_day[sale].mean() > 1.6 * a_day[~sale].mean()
    assert visits[:80].sum() > 0.4 * visits.sum()


def test_people_travel_subscribe_share_devices_and_begin() -> None:
    events, truth = world()
    ordinary = truth.scenario == simulator.ORDINARY
    tills = ordinary & np.isin(events.channel, (1, 2, 3))
    places = np.unique(np.stack([events.card[tills], events.country[tills]]), axis=1).shape[1]
    recurring = ordinary & (events.channel == draft.RECURRING) & (events.attempt_no == 1)
    plans = np.stack([events.card[recurring], events.merchant[recurring]])
    _, which, times = np.unique(plans, axis=1, return_inverse=True, return_counts=True)
    firsts = np.unique(events.card, return_index=True)[1]
    begun_day = (events.ts[firsts] - simulator.START_US) / wire.DAY_US

    assert places > 1.2 * len(np.unique(events.card[tills]))
    assert (times == 3).mean() > 0.8  # three months, three payments
    for plan in np.flatnonzero(times == 3)[:50]:
        assert len(np.unique(events.amount[recurring][which == plan])) == 1
    assert (begun_day > 45).mean() > 0.05
    households = np.unique(np.stack([events.device[tills], events.card[tills]]), axis=1)
    assert (np.unique(households[0], return_counts=True)[1] > 1).sum() > 50


def test_amounts_are_log_normal_and_rates_differ_from_card_to_card() -> None:
    people = populate(np.random.default_rng(0), 90, 20_000, 500)
    logs = np.log(people.card_rate[(people.card_rate > 0.02) & (people.card_rate < 4)])

    assert abs(np.mean(logs) + 1.4) < 0.1
    assert 0.6 < np.std(logs) < 0.85
    assert abs(people.popularity[0] / people.popularity[9] - 10**0.9) < 1e-6


def test_attackers_move_on_when_they_are_told_to() -> None:
    events, truth = simulator.with_truth(5, days=84, cards=8000, fraud_share=0.01, drift_weeks=2)
    moved = ((events.ts - simulator.START_US) // wire.DAY_US // 14) % 2 == 1
    testing, take_over = (truth.scenario == kind for kind in (draft.TESTING, draft.TAKE_OVER))

    assert testing[moved].mean() > 2 * testing[~moved].mean()
    assert take_over[moved].mean() < 0.7 * take_over[~moved].mean()


def test_retries_come_as_often_as_their_chances_say_and_never_where_that_is_forbidden() -> None:
    events, truth = world()
    retries = np.flatnonzero(events.attempt_no > 1)
    chance = truth.chances[retries, events.action[retries]]
    approved = events.outcome[retries] == wire.APPROVED

    assert np.isnan(truth.chances[events.attempt_no == 1]).all()
    for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1)):
        some = (chance >= low) & (chance < high)
        assert abs(approved[some].mean() - chance[some].mean()) < 4 * np.sqrt(0.25 / some.sum())
    assert ((events.propensity[retries] > 0) & (events.propensity[retries] < 1 - issuer.STOPS)).all()
    groups = {int(group) for group in events.attempt_group[retries]}
    followed = np.isin(events.attempt_group, list(groups)) & np.isin(events.advice, issuer.NEVER)
    last = {int(g): int(n) for g, n in zip(events.attempt_group, events.attempt_no, strict=True)}
    assert all(last[int(events.attempt_group[i])] == events.attempt_no[i] for i in np.flatnonzero(followed))


def test_what_helps_depends_on_why_it_was_refused() -> None:
    events, truth = world()
    first = {int(g): i for i, g in enumerate(events.attempt_group) if events.attempt_no[i] == 1}
    retries = np.flatnonzero(events.attempt_no == 2)
    outcome = events.outcome[[first[int(g)] for g in events.attempt_group[retries]]]

    def best(name: str) -> str:
        chances = truth.chances[retries[outcome == wire.OUTCOMES.index(name)]].mean(axis=0)
        return wire.ACTIONS[int(np.argmax(chances))]

    assert best("insufficient_funds") == "plus_72h"
    assert best("invalid_cvc") == "reformat"
    assert best("issuer_unavailable").startswith("plus_")


def test_events_arrive_twice_late_and_out_of_order() -> None:
    events, _ = world()
    order = simulator.deliver(events, 1)
    again = len(order) - len(np.unique(order))
    ts = events.ts[order]
    behind = np.maximum.accumulate(ts) - ts

    assert len(np.unique(order)) == len(events)
    assert abs(again / len(events) - 0.005) < 0.001
    assert 0.005 < (behind > wire.HOUR_US / 2).mean() < 0.015
    assert (behind > 0).mean() > 0.01
    assert np.array_equal(order, simulator.deliver(events, 1))
