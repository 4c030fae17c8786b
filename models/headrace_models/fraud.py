"""How fraud happens in the simulated world: in episodes, with the tools of ordinary life.

- account take-over: one card, a new device, a test charge, then drains over one to three days, mostly at night;
- card testing: many cards at one online merchant, small amounts minutes apart, most of them refused;
- compromised merchant: for weeks a share of a merchant's ordinary payments is fraudulent. Nothing in the
  card's own history shows it.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from headrace_models import wire
from headrace_models.world import Draft, World, moments, outcomes

TAKE_OVER, TESTING, COMPROMISED = 0.4, 0.3, 0.3
"""Share of the fraudulent events that each kind brings."""
NIGHT = np.array([9, 10, 10, 9, 7, 4, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8], float)


def add(rng: np.random.Generator, world: World, life: Draft, days: int, share: float) -> Draft:
    """Ordinary life with fraud in it: about `share` of all events."""
    wanted = int(len(life.ts) * share)
    _compromise(rng, world, life, days, int(wanted * COMPROMISED))
    parts = [life]
    parts += _take_overs(rng, world, days, int(wanted * TAKE_OVER))
    parts += _testing(rng, world, days, int(wanted * TESTING))
    return Draft(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Draft)))


def _compromise(rng: np.random.Generator, world: World, life: Draft, days: int, wanted: int) -> None:
    """Mark a share of what happens at some merchants during three to six weeks as fraud."""
    popular = np.argsort(-world.popularity)[20:300]
    marked = 0
    while marked < wanted:
        merchant = rng.choice(popular)
        begin, length = rng.integers(-10, max(1, days - 10)), rng.integers(21, 42)
        during = (life.ts >= begin * wire.DAY_US) & (life.ts < (begin + length) * wire.DAY_US)
        there = np.flatnonzero(during & (life.merchant == merchant))
        taken = there[rng.random(len(there)) < rng.uniform(0.25, 0.5)]
        life.fraud[taken] = True
        marked += max(1, len(taken))


def _take_overs(rng: np.random.Generator, world: World, days: int, wanted: int) -> list[Draft]:
    online = np.flatnonzero(world.merchant_online)
    weights = world.popularity[online] / world.popularity[online].sum()
    parts: list[Draft] = []
    made = 0
    while made < wanted:
        n = int(rng.integers(5, 14))
        merchant = rng.choice(online, n, p=weights)
        amount = np.exp(rng.uniform(np.log(90), np.log(950), n))
        amount[0] = rng.uniform(0.9, 3.2)
        ts = rng.integers(0, days) * wire.DAY_US + np.sort(moments(rng, n, int(rng.integers(1, 4)), NIGHT))
        parts.append(
            Draft(
                ts=np.minimum(ts, days * wire.DAY_US - 1),
                card=np.full(n, rng.integers(len(world.card_rate))),
                merchant=merchant,
                device=np.full(n, len(world.card_rate) + (1 << 20) + rng.integers(0, 1 << 20)),
                amount=amount,
                country=world.merchant_country[merchant],
                channel=np.full(n, 4),
                outcome=outcomes(rng, np.full(n, 0.2)),
                fraud=np.ones(n, bool),
            )
        )
        made += n
    return parts


def _testing(rng: np.random.Generator, world: World, days: int, wanted: int) -> list[Draft]:
    online = np.flatnonzero(world.merchant_online)
    parts: list[Draft] = []
    made = 0
    while made < wanted:
        n = int(rng.integers(15, 60))
        begin = rng.integers(0, days * wire.DAY_US)
        ts = begin + np.cumsum(rng.exponential(120e6, n)).astype(np.int64)  # two minutes apart on average
        merchant = np.full(n, rng.choice(online))
        devices = len(world.card_rate) + (1 << 21) + rng.integers(0, 1 << 20, 3)
        parts.append(
            Draft(
                ts=np.minimum(ts, days * wire.DAY_US - 1),
                card=rng.integers(0, len(world.card_rate), n),
                merchant=merchant,
                device=rng.choice(devices, n),
                amount=rng.uniform(0.5, 6, n),
                country=world.merchant_country[merchant],
                channel=np.full(n, 4),
                outcome=outcomes(rng, np.full(n, 0.6)),
                fraud=np.ones(n, bool),
            )
        )
        made += n
    return parts
