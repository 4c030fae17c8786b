"""A world of card payments with fraud and refusals in it: deterministic per seed, in columns, fast.

`world` is who there is, `life` what they do, `fraud` what is done to them, `issuer` who refuses and what retries bring,
`labels` when it becomes known, `delivery` what goes wrong on the way. Fraud draws from the same pools of merchants,
countries and amounts as life does, so that no single column gives it away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace_models import wire
from headrace_models.events import Events
from headrace_models.simulator import fraud, issuer, labels, life
from headrace_models.simulator.calendar import START_US
from headrace_models.simulator.delivery import deliver
from headrace_models.simulator.draft import NAMES, ORDINARY, Draft
from headrace_models.simulator.issuer import STOPS
from headrace_models.simulator.world import BINS_PER_ISSUER, COUNTRIES, CURRENCIES, ISSUERS, MCCS, World, populate

__all__ = [
    "COUNTRIES",
    "CURRENCIES",
    "NAMES",
    "ORDINARY",
    "START_US",
    "STOPS",
    "Truth",
    "deliver",
    "simulate",
    "with_truth",
]


@dataclass(frozen=True, slots=True)
class Truth:
    """What no model may read: how each event came about. One entry per event, in the order of `Events`."""

    scenario: npt.NDArray[np.int8]
    """0 is ordinary life; the kinds of fraud are numbered in `NAMES`."""
    episode: npt.NDArray[np.int32]
    """0 for ordinary life; frauds of one episode share a number."""
    chances: npt.NDArray[np.float32]
    """[events, actions] of a retry: how likely each action would have been approved. NaN for first attempts."""


def simulate(seed: int, **options: Any) -> Events:
    """The events of `with_truth` alone: what a model may see."""
    return with_truth(seed, **options)[0]


def with_truth(
    seed: int,
    *,
    days: int = 120,
    cards: int = 12_000,
    merchants: int = 1_500,
    fraud_share: float = 0.002,
    drift_weeks: int = 0,
) -> tuple[Events, Truth]:
    """`days` of payments, and how each came about; the same arguments give the same bytes.

    About 0.37 events a card and day. `fraud_share`: of all payments, 0.001 to 0.01. `drift_weeks`: every so many weeks
    attackers move between two mixtures of take-overs and card testing; 0 = they don't.
    Raises: ValueError for a share outside of its range.
    """
    if not 0 < fraud_share <= 0.01:
        raise ValueError(f"fraud_share is {fraud_share}, outside of 0 to 0.01")
    rng = np.random.default_rng(seed)
    world = populate(rng, days, cards, merchants)
    draft = fraud.add(rng, world, life.live(rng, world), fraud_share, drift_weeks)
    return _finish(rng, world, draft, issuer.authorise(rng, world, draft))


def _finish(rng: np.random.Generator, world: World, draft: Draft, attempts: issuer.Attempts) -> tuple[Events, Truth]:
    """Every attempt as an event: sorted by time, ids hashed, with what follows from cards and merchants."""
    inside = attempts.ts < world.days * wire.DAY_US
    order = np.flatnonzero(inside)[np.argsort(attempts.ts[inside], kind="stable")]
    ts = START_US + attempts.ts[order]
    place = np.arange(len(ts))
    ts = np.maximum.accumulate(ts - place) + place  # no two events in one microsecond
    payment = attempts.payment[order]
    paid = draft.take(payment)
    outcome, number = attempts.outcome[order], attempts.number[order]
    label, days_until = labels.label(rng, paid.scenario != ORDINARY, outcome)
    several = np.bincount(payment, minlength=len(draft))[payment] > 1
    strong = world.card_issuer[paid.card] % 3 == 0
    events = Events(
        ts=ts,
        card=_hashes("card", world.cards)[paid.card],
        merchant=_hashes("merchant", world.merchants)[paid.merchant],
        device=_mix(paid.device),
        issuer_bin=_hashes("bin", ISSUERS * BINS_PER_ISSUER)[world.card_bin[paid.card]],
        amount=paid.amount.round(2).clip(0.01).astype(np.float32),
        mcc=np.array(MCCS, np.int32)[world.merchant_mcc[paid.merchant]],
        country=_letters(COUNTRIES)[paid.country],
        currency=_letters(CURRENCIES)[paid.country],
        channel=paid.channel.astype(np.int32),
        outcome=outcome.astype(np.int32),
        label=label,
        label_ts=ts + (days_until * wire.DAY_US).astype(np.int64),
        attempt_group=np.where(several, _mix(payment + (1 << 40)), 0),
        attempt_no=number.astype(np.int32),
        action=attempts.action[order].astype(np.int32),
        propensity=attempts.propensity[order].astype(np.float32),
        three_ds=np.where(paid.channel != 4, 0, np.where(strong, 2, 1)).astype(np.int8),
        network_token=np.where(paid.channel < 4, 0, 1 + attempts.network_token[order]).astype(np.int8),
        advice=attempts.advice[order].astype(np.int32),
    )
    return events, Truth(paid.scenario, paid.episode, attempts.chances[order])


def _letters(codes: tuple[str, ...]) -> npt.NDArray[np.int32]:
    return np.array([wire.letters_code(code) for code in codes], np.int32)


def _hashes(kind: str, count: int) -> npt.NDArray[np.int64]:
    return np.array([wire.hash_id(f"{kind}-{i}") for i in range(count)], np.int64)


def _mix(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """A 64-bit hash of integers (the finaliser of splitmix64)."""
    z = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).view(np.int64)
