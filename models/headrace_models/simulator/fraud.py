"""How fraud happens in the simulated world: in episodes, with the tools of ordinary life.

- account take-over: one card, often a new device, a test charge, then drains over one to three days, mostly at night;
- card testing: many cards of one issuer's range at one online merchant, small amounts minutes apart, many refused;
- compromised merchant: for weeks a share of a merchant's ordinary payments is fraudulent. Nothing in the
  card's own history shows it;
- friendly fraud: an ordinary payment that its cardholder disputes later. Nothing shows it at all.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from headrace_models import wire
from headrace_models.simulator import calendar
from headrace_models.simulator.draft import (
    COMPROMISED,
    ECOMMERCE,
    FRIENDLY,
    ORDINARY,
    TAKE_OVER,
    TESTING,
    Draft,
    channels,
    new_devices,
)
from headrace_models.simulator.world import Floats, Ints, World

SHARES: Final = np.array([0.44, 0.20, 0.28, 0.08])
"""Share of the fraudulent payments that each kind brings, in the order of the kinds."""
DRIFTED: Final = np.array([0.15, 0.50, 0.27, 0.08])
"""The same when attackers have moved on: `drift_weeks` walks back and forth between the two."""
OWN_DEVICE: Final = 0.35
"""Share of take-overs that happen on the card's own device (phishing, remote control)."""
EPISODES: Final = 1_000_000
"""An episode's number is its kind times this, and its place among its kind."""


def add(rng: np.random.Generator, world: World, life: Draft, share: float, drift_weeks: int) -> Draft:
    """Ordinary life with fraud in it: about `share` of all payments."""
    wanted = (len(life) * share * SHARES).astype(int)
    day = _days(world, drift_weeks)
    _compromise(rng, world, life, wanted[2])
    _dispute(rng, life, wanted[3])
    take_overs = _take_overs(rng, world, wanted[0], day[0])
    testing = _testing(rng, world, wanted[1], day[1])
    return Draft.join([life, take_overs, testing])


def _days(world: World, drift_weeks: int) -> Floats:
    """[2, days] probability that a take-over or a testing burst begins on each day."""
    day = np.arange(world.days)
    moved = (day // (7 * drift_weeks)) % 2 == 1 if drift_weeks else np.zeros(world.days, bool)
    weight = np.where(moved, (DRIFTED / SHARES)[:2, None], 1.0)
    weights: Floats = weight / weight.sum(axis=1, keepdims=True)
    return weights


def _take_overs(rng: np.random.Generator, world: World, wanted: int, day_p: Floats) -> Draft:
    """A test charge of a coin or two, then 4 to 12 drains in one to three days."""
    count = max(1, round(wanted / 9))
    n = rng.integers(5, 14, count)
    episode = np.repeat(np.arange(count), n)
    first = np.concatenate([[0], np.cumsum(n)[:-1]])
    begin = rng.choice(world.days, count, p=day_p)
    day = np.minimum(begin[episode] + rng.integers(0, rng.integers(1, 4, count)[episode]), world.days - 1)
    ts = calendar.moments(rng, day, calendar.NIGHT)
    ts = ts[np.lexsort((ts, episode))]
    rows = len(ts)
    # Anything that can be sold on: half of it online, the rest wherever people go.
    anywhere = rng.choice(world.merchants, rows, p=world.popularity)
    shares = world.popularity[world.online] / world.popularity[world.online].sum()
    merchant = np.where(rng.random(rows) < 0.5, rng.choice(world.online, rows, p=shares), anywhere)
    amount = np.exp(rng.uniform(np.log(60), np.log(700), rows))
    amount[first] = rng.uniform(0.9, 3.2, count)
    card = _victims(rng, world, rng.integers(0, world.cards, count), begin)
    stranger = new_devices(rng, world, count)
    device = np.where(rng.random(count) < OWN_DEVICE, world.card_device[card], stranger)
    abroad = rng.choice(world.merchant_country, count)
    online = world.merchant_online[merchant]
    return Draft(
        ts=ts,
        card=card[episode],
        merchant=merchant,
        device=device[episode],
        amount=amount,
        country=np.where(online, world.merchant_country[merchant], abroad[episode]),
        channel=channels(rng, online),
        strain=np.full(rows, 1.3),
        scenario=np.full(rows, TAKE_OVER, np.int8),
        episode=(TAKE_OVER * EPISODES + 1 + episode).astype(np.int32),
    )


def _victims(rng: np.random.Generator, world: World, card: Ints, day: Ints) -> Ints:
    """These cards, or, where one does not exist yet on its day, another that does."""
    there_before = np.flatnonzero(world.card_opened < 0)
    return np.where(world.card_opened[card] < day, card, rng.choice(there_before, len(card)))


def _testing(rng: np.random.Generator, world: World, wanted: int, day_p: Floats) -> Draft:
    """15 to 60 cards, half of the bursts from one range of numbers, about five minutes apart."""
    count = max(1, round(wanted / 37))
    n = rng.integers(15, 61, count)
    episode = np.repeat(np.arange(count), n)
    begin = (rng.choice(world.days, count, p=day_p) + rng.random(count)) * wire.DAY_US
    gaps = rng.exponential(300e6, len(episode))
    firsts = np.concatenate([[0], np.cumsum(n)[:-1]])
    elapsed = np.cumsum(gaps)
    ts = (begin[episode] + elapsed - elapsed[firsts][episode]).astype(np.int64)
    rows = len(ts)
    merchant = rng.choice(world.online, count)[episode]
    devices = new_devices(rng, world, count * 8).reshape(count, 8)
    return Draft(
        ts=np.minimum(ts, world.days * wire.DAY_US - 1),
        card=_victims(rng, world, _tested_cards(rng, world, episode, count), ts // wire.DAY_US),
        merchant=merchant,
        device=devices[episode, rng.integers(0, 8, rows)],
        amount=np.exp(rng.uniform(np.log(0.5), np.log(12), rows)),
        country=world.merchant_country[merchant],
        channel=np.full(rows, ECOMMERCE),
        strain=np.full(rows, 2.4),
        scenario=np.full(rows, TESTING, np.int8),
        episode=(TESTING * EPISODES + 1 + episode).astype(np.int32),
    )


def _tested_cards(rng: np.random.Generator, world: World, episode: np.ndarray, count: int) -> np.ndarray:
    """Any cards, or, in every second burst, cards of one range."""
    by_bin = np.argsort(world.card_bin, kind="stable")
    ends = np.searchsorted(world.card_bin[by_bin], np.arange(world.card_bin.max() + 2))
    wanted_bin = world.card_bin[rng.integers(0, world.cards, count)]
    low, high = ends[wanted_bin], ends[wanted_bin + 1]
    of_range = by_bin[low[episode] + rng.integers(0, (high - low)[episode])]
    return np.where((np.arange(count) % 2 == 0)[episode], of_range, rng.integers(0, world.cards, len(episode)))


def _compromise(rng: np.random.Generator, world: World, life: Draft, wanted: int) -> None:
    """Mark a share of what happens at some merchants during four to eight weeks as fraud."""
    midsize = np.argsort(-world.popularity)[world.merchants // 40 : world.merchants // 4 + 1]
    order = np.lexsort((life.ts, life.merchant))
    begins = np.searchsorted(life.merchant[order], np.arange(world.merchants + 1))
    made = episode = 0
    while made < wanted and episode < 50 * len(midsize):
        merchant = rng.choice(midsize)
        there = order[begins[merchant] : begins[merchant + 1]]
        begin, length = rng.integers(-20, world.days), rng.integers(28, 57)
        window = np.searchsorted(life.ts[there], [begin * wire.DAY_US, (begin + length) * wire.DAY_US])
        there = there[window[0] : window[1]]
        taken = there[(rng.random(len(there)) < rng.uniform(0.15, 0.45)) & (life.scenario[there] == ORDINARY)]
        episode += 1
        life.scenario[taken], life.episode[taken] = COMPROMISED, COMPROMISED * EPISODES + episode
        made += len(taken)


def _dispute(rng: np.random.Generator, life: Draft, wanted: int) -> None:
    """Mark some ordinary payments as fraud, each an episode of its own."""
    honest = np.flatnonzero(life.scenario == ORDINARY)
    taken = rng.choice(honest, min(wanted, len(honest)), replace=False)
    life.scenario[taken] = FRIENDLY
    life.episode[taken] = FRIENDLY * EPISODES + 1 + np.arange(len(taken))
