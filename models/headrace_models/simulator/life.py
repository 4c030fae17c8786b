"""Ordinary life: shopping at favourite places and elsewhere, subscriptions, trips, and what looks odd but is not.

Odd but honest, so that no single sign of fraud is proof: a new telephone, a trial for a coin or two, a few days of
large purchases (a move, a wedding), a payment from abroad.
"""

from __future__ import annotations

import numpy as np

from headrace_models import wire
from headrace_models.simulator import calendar
from headrace_models.simulator.draft import RECURRING, Draft, channels, new_devices
from headrace_models.simulator.world import TRIP_EVERY_DAYS, Ints, World

NEW_DEVICE = 0.05
"""Share of ordinary payments from a device the card has not used: a new telephone, or one lent by the family."""
TRIAL = 0.012
"""Share of ordinary online payments that are a trial for a coin or two."""
SPREES_PER_CARD = 0.5
"""Days of large purchases, a card and 120 days."""


def live(rng: np.random.Generator, world: World) -> Draft:
    """Every honest payment of the world's days."""
    return Draft.join([_shopping(rng, world), _subscriptions(rng, world), _sprees(rng, world)])


def _shopping(rng: np.random.Generator, world: World) -> Draft:
    card = np.repeat(np.arange(world.cards), rng.poisson(world.card_rate * world.days))
    weights = calendar.day_weights(world.days)
    day = rng.choice(world.days, len(card), p=weights / weights.sum())
    there = day >= world.card_opened[card]
    card, day = card[there], day[there]
    n = len(card)
    ts = np.empty(n, np.int64)
    for segment, hours in enumerate(calendar.HOURS):
        mine = world.card_segment[card] == segment
        ts[mine] = calendar.moments(rng, day[mine], hours)
    merchant = np.where(
        rng.random(n) < 0.6,
        world.card_favourites[card, rng.integers(0, 6, n)],
        rng.choice(world.merchants, n, p=world.popularity),
    )
    amount = np.exp(0.5 * world.card_amount[card] + 0.5 * world.merchant_amount[merchant] + rng.normal(0, 0.8, n))
    trial = world.merchant_online[merchant] & (rng.random(n) < TRIAL)
    amount = np.where(trial, rng.uniform(0.9, 3.2, n), amount)
    return _honest(rng, world, ts, card, merchant, amount)


def _subscriptions(rng: np.random.Generator, world: World) -> Draft:
    """The same merchant and amount on the same day of every month, without the cardholder."""
    month = calendar.day_of_month(np.arange(world.days))
    day, card, slot = np.nonzero((month[:, None, None] == world.subscription_day) & (world.subscription >= 0))
    there = day >= world.card_opened[card]
    day, card, slot = day[there], card[there], slot[there]
    merchant = world.subscription[card, slot]
    draft = _honest(
        rng, world, day * wire.DAY_US + rng.integers(0, 6 * wire.HOUR_US, len(day)), card, merchant,
        world.subscription_amount[card, slot],
    )  # fmt: skip
    draft.channel[:] = RECURRING
    draft.device[:] = world.card_device[card]
    return draft


def _sprees(rng: np.random.Generator, world: World) -> Draft:
    """Three to eight large purchases within two days, from the card's own device or a new one."""
    count = rng.poisson(world.cards * SPREES_PER_CARD * world.days / 120)
    n = rng.integers(3, 9, count)
    spree = np.repeat(np.arange(count), n)
    card = rng.integers(0, world.cards, count)[spree]
    begin = rng.uniform(0, max(1, world.days - 2), count)[spree]
    ts = ((begin + rng.uniform(0, 2, len(spree))) * wire.DAY_US).astype(np.int64)
    merchant = rng.choice(world.merchants, len(spree), p=world.popularity)
    amount = np.exp(rng.normal(5.3, 0.6, len(spree)))
    there = ts >= world.card_opened[card] * wire.DAY_US
    draft = _honest(rng, world, ts, card, merchant, amount)
    fresh = new_devices(rng, world, count)[spree]
    draft.device = np.where((rng.random(count) < 0.3)[spree], fresh, world.card_device[card])
    return draft.take(there)


def _honest(rng: np.random.Generator, world: World, ts: Ints, card: Ints, merchant: Ints, amount: np.ndarray) -> Draft:
    n = len(ts)
    online = world.merchant_online[merchant]
    fresh = rng.random(n) < NEW_DEVICE
    return Draft(
        ts=ts,
        card=card,
        merchant=merchant,
        device=np.where(fresh, new_devices(rng, world, n), world.card_device[card]),
        amount=amount,
        country=np.where(online, world.merchant_country[merchant], whereabouts(world, card, ts)),
        channel=channels(rng, online),
        strain=np.zeros(n),
        scenario=np.zeros(n, np.int8),
        episode=np.zeros(n, np.int32),
    )


def whereabouts(world: World, card: Ints, ts: Ints) -> Ints:
    """The country each card is in at that moment: at home, or on a trip."""
    day = ts / wire.DAY_US
    trip = np.minimum((day // TRIP_EVERY_DAYS).astype(np.int64), world.trip_begin.shape[1] - 1)
    since = day - world.trip_begin[card, trip]
    away = (since >= 0) & (since < world.trip_days[card, trip])
    return np.where(away, world.trip_country[card, trip], world.card_country[card])
