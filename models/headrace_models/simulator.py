"""A world of card payments with fraud in it: deterministic per seed, in columns, fast.

Ordinary life: cards with their own rates, amounts, devices and favourite merchants; Zipf merchants; nights and
weekends; travel; refusals. Fraud comes in episodes (`headrace_models.fraud`), drawn from the same pools of
merchants, countries and amounts, so that no single column gives it away.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from headrace_models import fraud, wire
from headrace_models.events import Events
from headrace_models.world import Draft, World, channels, moments, outcomes

START_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
COUNTRIES = ("FR", "DE", "GB", "US", "ES", "IT", "NL", "PL", "SE", "BR", "JP", "TH")
CURRENCIES = ("EUR", "EUR", "GBP", "USD", "EUR", "EUR", "EUR", "PLN", "SEK", "BRL", "JPY", "THB")
MCCS = (5411, 5812, 5541, 5999, 5732, 4111, 5691, 7995, 4814, 5912, 7011, 5816)
ONLINE_MCCS = (5999, 5732, 7995, 4814, 5816)
HOURS = np.array([1, 1, 1, 1, 1, 2, 4, 7, 9, 9, 9, 11, 13, 11, 9, 9, 10, 12, 13, 12, 9, 6, 4, 2], float)
"""Weight of each hour of the day (UTC) in ordinary life."""


def simulate(
    seed: int, *, days: int = 120, cards: int = 12_000, merchants: int = 1_500, fraud_share: float = 0.003
) -> Events:
    """`days` of payments; about `fraud_share` of them fraudulent. The same arguments give the same bytes.

    About 0.35 events a card and day. Labels: fraud becomes known after a log-normal delay (median 8 days),
    everything else counts as legitimate after 30 days.
    """
    rng = np.random.default_rng(seed)
    world = _population(rng, cards, merchants)
    life = _ordinary_life(rng, world, days)
    drafts = fraud.add(rng, world, life, days, fraud_share)
    return _finish(rng, world, drafts)


def _population(rng: np.random.Generator, cards: int, merchants: int) -> World:
    home = rng.choice(len(COUNTRIES), cards, p=_zipf(len(COUNTRIES), 0.7))
    popularity = _zipf(merchants, 0.9)
    mcc = rng.integers(0, len(MCCS), merchants)
    return World(
        card_rate=rng.lognormal(-1.4, 0.8, cards).clip(0.02, 4),
        card_country=home,
        card_amount=rng.normal(3.1, 0.5, cards),
        card_favourites=rng.choice(merchants, (cards, 6), p=popularity),
        merchant_country=rng.choice(len(COUNTRIES), merchants, p=_zipf(len(COUNTRIES), 0.7)),
        merchant_mcc=mcc,
        merchant_amount=rng.normal(3.2, 0.8, merchants),
        merchant_online=np.isin(np.array(MCCS)[mcc], ONLINE_MCCS),
        popularity=popularity,
    )


def _zipf(n: int, exponent: float) -> npt.NDArray[np.float64]:
    weights: npt.NDArray[np.float64] = np.arange(1, n + 1, dtype=float) ** -exponent
    shares: npt.NDArray[np.float64] = weights / weights.sum()
    return shares


def _ordinary_life(rng: np.random.Generator, world: World, days: int) -> Draft:
    card = np.repeat(np.arange(len(world.card_rate)), rng.poisson(world.card_rate * days))
    n = len(card)
    merchant = np.where(
        rng.random(n) < 0.6,
        world.card_favourites[card, rng.integers(0, 6, n)],
        rng.choice(len(world.popularity), n, p=world.popularity),
    )
    travelling = rng.random(n) < 0.04
    online = world.merchant_online[merchant]
    country = np.where(online | travelling, world.merchant_country[merchant], world.card_country[card])
    amount = np.exp(0.5 * world.card_amount[card] + 0.5 * world.merchant_amount[merchant] + rng.normal(0, 0.7, n))
    # A few per cent of ordinary payments come from a new telephone, or one lent by the family.
    device = np.where(rng.random(n) < 0.04, len(world.card_rate) + rng.integers(0, 1 << 20, n), card)
    return Draft(
        ts=moments(rng, n, days, HOURS),
        card=card,
        merchant=merchant,
        device=device,
        amount=amount,
        country=country,
        channel=channels(rng, online),
        outcome=outcomes(rng, np.full(n, 0.05)),
        fraud=np.zeros(n, bool),
    )


def _finish(rng: np.random.Generator, world: World, draft: Draft) -> Events:
    """Sort by time, hash the ids, add what follows from cards and merchants, and when labels become known."""
    order = np.argsort(draft.ts, kind="stable")
    ts = START_US + draft.ts[order]
    ts += np.arange(len(ts)) - np.searchsorted(ts, ts)  # no two events in one microsecond
    card, merchant, isfraud = draft.card[order], draft.merchant[order], draft.fraud[order]
    country = draft.country[order]
    letters = np.array([wire.letters_code(c) for c in COUNTRIES], np.int32)
    money = np.array([wire.letters_code(c) for c in CURRENCIES], np.int32)
    delay = np.where(isfraud, rng.lognormal(np.log(8), 0.7, len(ts)), 30.0)
    return Events(
        ts=ts,
        card=_hashes("card", len(world.card_rate))[card],
        merchant=_hashes("merchant", len(world.popularity))[merchant],
        device=_mix(draft.device[order]),
        issuer_bin=_hashes("bin", 200)[(card * 7919) % 200],
        amount=draft.amount[order].round(2).clip(0.01).astype(np.float32),
        mcc=np.array(MCCS, np.int32)[world.merchant_mcc[merchant]],
        country=letters[country],
        currency=money[country],
        channel=draft.channel[order].astype(np.int32),
        outcome=draft.outcome[order].astype(np.int32),
        label=np.where(isfraud, wire.LABEL_FRAUD, wire.LABEL_LEGITIMATE).astype(np.int8),
        label_ts=ts + (delay * wire.DAY_US).astype(np.int64),
    )


def _hashes(kind: str, count: int) -> npt.NDArray[np.int64]:
    return np.array([wire.hash_id(f"{kind}-{i}") for i in range(count)], np.int64)


def _mix(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """A 64-bit hash of integers (the finaliser of splitmix64)."""
    z = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).view(np.int64)
