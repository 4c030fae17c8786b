"""Issuers: whom they refuse and why, and what would have happened to each retry.

A refusal has a cause that nobody outside sees. It shows, blurred, in the outcome and in the network's advice, and
decides how likely each of `wire.ACTIONS` is to help. Those probabilities are kept for every retry, so that a policy
can be judged on what it would have done. Merchants that hold the card's details may retry: a logged policy
chooses at random, with odds that depend on the outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import numpy.typing as npt

from headrace_models import wire
from headrace_models.simulator import calendar
from headrace_models.simulator.draft import ECOMMERCE, TAKE_OVER, TESTING, Draft
from headrace_models.simulator.world import Floats, Ints, World

FUNDS, RISK, DOWN, DATA, HARD = range(5)
"""Causes: no money, distrust, an outage, wrong details, a card that is no more."""
CODE: Final = {name: code for code, name in enumerate(wire.OUTCOMES)}
NOTE: Final = {name: code for code, name in enumerate(wire.ADVICE)}
SHOWN: Final[tuple[tuple[tuple[str, float], ...], ...]] = (
    (("insufficient_funds", 0.85), ("do_not_honor", 0.15)),
    (("do_not_honor", 0.6), ("declined", 0.28), ("suspected_fraud", 0.12)),
    (("issuer_unavailable", 0.55), ("declined", 0.25), ("do_not_honor", 0.2)),
    (("invalid_cvc", 0.7), ("declined", 0.3)),
    (("expired_card", 0.45), ("lost_or_stolen", 0.35), ("do_not_honor", 0.2)),
)
"""The outcomes that each cause may show as, and how often."""
ADVISED: Final = (
    ("visa_category_2", "mastercard_mac_25"),
    ("visa_category_4", "mastercard_mac_02"),
    ("visa_category_2", "mastercard_mac_24"),
    ("visa_category_3", "mastercard_mac_01"),
    ("visa_category_1", "mastercard_mac_03"),
)
"""What Visa and what Mastercard say of each cause, where they say something."""
SILENT: Final = 0.25
MAX_ATTEMPTS: Final = 5
STOPS: Final = 0.3
"""Probability that the merchant gives up after a refusal."""
RETRY_HOURS: Final = np.array([0.03, 1.0, 6.0, 24.0, 72.0, 0.08, 0.08, 0.03])
"""Until the retry that each action brings."""
NEVER: Final = tuple(NOTE[name] for name in ("visa_category_1", "mastercard_mac_03", "mastercard_mac_21"))


@dataclass(slots=True, kw_only=True)
class Attempts:
    """What became of some attempts, one entry each; `payment` is a place in the draft."""

    payment: Ints
    ts: Ints
    number: Ints
    action: Ints
    propensity: Floats
    outcome: Ints
    advice: Ints
    network_token: npt.NDArray[np.bool_]
    chances: npt.NDArray[np.float32]
    """[n, actions] P(approved) of every action this attempt could have been; NaN for first attempts."""

    def __len__(self) -> int:
        return len(self.payment)

    @classmethod
    def join(cls, rounds: Sequence[Attempts]) -> Attempts:
        return cls(**{f.name: np.concatenate([getattr(one, f.name) for one in rounds]) for f in fields(cls)})


def authorise(rng: np.random.Generator, world: World, draft: Draft) -> Attempts:
    """Every payment's first attempt, then round after round of retries."""
    n = len(draft)
    cause = _causes(rng, world, draft)
    refused = rng.random(n) < _sigmoid(_odds_of_refusal(world, draft))
    outcome, advice = _signs(rng, world, draft.card, cause)
    first = Attempts(
        payment=np.arange(n),
        ts=draft.ts,
        number=np.ones(n, np.int64),
        action=np.zeros(n, np.int64),
        propensity=np.ones(n),
        outcome=np.where(refused, outcome, wire.APPROVED),
        advice=np.where(refused, advice, 0),
        network_token=(rng.random(n) < 0.3) & (draft.channel >= ECOMMERCE),
        chances=np.full((n, len(wire.ACTIONS)), np.nan, np.float32),
    )
    rounds = [first]
    while len(rounds) < MAX_ATTEMPTS and len(rounds[-1]):
        rounds.append(_retry(rng, world, draft, cause, rounds[-1]))
    return Attempts.join(rounds)


def _odds_of_refusal(world: World, draft: Draft) -> Floats:
    hour = calendar.hour_of(draft.ts)
    issuer = world.card_issuer[draft.card]
    odds: Floats = (
        -3.3
        + world.issuer_strict[issuer]
        + 0.5 * ((hour < 5) | (hour == world.issuer_night[issuer]))
        + 0.3 * np.maximum(np.log(draft.amount) - 3, 0)
        + 0.45 * (draft.channel >= ECOMMERCE)
        + draft.strain
    )
    return odds


def _causes(rng: np.random.Generator, world: World, draft: Draft) -> Ints:
    """Why each payment would be refused, if it were."""
    day = draft.ts // wire.DAY_US
    before_payday = np.isin(calendar.day_of_month(day), np.arange(calendar.PAYDAY - 8, calendar.PAYDAY))
    online = draft.channel >= ECOMMERCE
    serviced = calendar.hour_of(draft.ts) == world.issuer_night[world.card_issuer[draft.card]]
    weight = np.stack(
        [
            np.where(before_payday, 0.9, 0.35),
            0.3 + 0.1 * np.maximum(np.log(draft.amount) - 3, 0) + 0.3 * (draft.strain > 0),
            np.where(serviced, 1.2, 0.12),
            0.16 * online,
            np.full(len(draft), 0.12),
        ]
    )
    edges = np.cumsum(weight / weight.sum(axis=0), axis=0)
    cause: Ints = np.minimum((rng.random(len(draft)) > edges).sum(axis=0), HARD)
    return cause


def _signs(rng: np.random.Generator, world: World, card: Ints, cause: Ints) -> tuple[Ints, Ints]:
    """The outcome and the advice that a refusal for this cause shows: blurred, different at every attempt."""
    outcome = np.empty(len(cause), np.int64)
    advice = np.zeros(len(cause), np.int64)
    mastercard = world.issuer_mastercard[world.card_issuer[card]]
    for number, shown in enumerate(SHOWN):
        mine = cause == number
        outcome[mine] = rng.choice([CODE[name] for name, _ in shown], mine.sum(), p=[share for _, share in shown])
        visa, other = (NOTE[name] for name in ADVISED[number])
        advice[mine] = np.where(mastercard[mine], other, visa)
    cancelled = (advice == NOTE["mastercard_mac_03"]) & (rng.random(len(cause)) < 0.3)
    advice[cancelled] = NOTE["mastercard_mac_21"]
    return outcome, np.where(rng.random(len(cause)) < SILENT, 0, advice)


def _retry(rng: np.random.Generator, world: World, draft: Draft, cause: Ints, last: Attempts) -> Attempts:
    """Those refused attempts that somebody tries again."""
    held = (draft.channel[last.payment] >= ECOMMERCE) & ~np.isin(draft.scenario[last.payment], (TAKE_OVER, TESTING))
    again = held & (last.outcome != wire.APPROVED) & ~np.isin(last.advice, NEVER) & (rng.random(len(last)) >= STOPS)
    taken = np.flatnonzero(again)
    payment = last.payment[taken]
    odds = _logged_policy(last.outcome[taken])
    action = (rng.random(len(taken))[:, None] > np.cumsum(odds, axis=1)).sum(axis=1).clip(0, len(wire.ACTIONS) - 1)
    chances = _chances(world, draft, cause, payment, last.ts[taken], last.number[taken])
    pick = np.arange(len(taken))
    approved = rng.random(len(taken)) < chances[pick, action]
    outcome, advice = _signs(rng, world, draft.card[payment], cause[payment])
    wait_h = RETRY_HOURS[action] * rng.uniform(1, 1.1, len(taken))
    return Attempts(
        payment=payment,
        ts=last.ts[taken] + (wait_h * wire.HOUR_US).astype(np.int64),
        number=last.number[taken] + 1,
        action=action,
        propensity=odds[pick, action] * (1 - STOPS),
        outcome=np.where(approved, wire.APPROVED, outcome),
        advice=np.where(approved, 0, advice),
        network_token=last.network_token[taken] | (action == wire.ACTIONS.index("network_token")),
        chances=chances,
    )


def _logged_policy(outcome: Ints) -> Floats:
    """[n, actions]: how today's rule of thumb chooses after each outcome, with some exploration."""
    odds = np.full((len(wire.OUTCOMES), len(wire.ACTIONS)), 0.4)
    odds[:, wire.ACTIONS.index("plus_24h")] += 1.0
    odds[CODE["insufficient_funds"], wire.ACTIONS.index("plus_72h")] += 1.5
    odds[CODE["issuer_unavailable"], wire.ACTIONS.index("plus_1h")] += 2.0
    odds[CODE["do_not_honor"], wire.ACTIONS.index("network_token")] += 0.8
    odds[CODE["invalid_cvc"], wire.ACTIONS.index("reformat")] += 2.0
    odds[CODE["declined"], wire.ACTIONS.index("now")] += 0.8
    odds /= odds.sum(axis=1, keepdims=True)
    chosen: Floats = odds[outcome]
    return chosen


def _chances(
    world: World, draft: Draft, cause: Ints, payment: Ints, after: Ints, attempts: Ints
) -> npt.NDArray[np.float32]:
    """[n, actions] P(approved) of each action after the attempt at `after`: the truth behind the outcomes."""
    why, issuer = cause[payment, None], world.card_issuer[draft.card[payment]]
    delay = RETRY_HOURS[None, :]
    reformat, token, route = (np.arange(len(wire.ACTIONS)) == wire.ACTIONS.index(name) for name in wire.ACTIONS[5:])
    likes = [world.issuer_likes[issuer, i][:, None] for i in range(3)]
    then = after[:, None] + (delay * wire.HOUR_US).astype(np.int64)
    day_then = calendar.day_of_month(then // wire.DAY_US)
    paid = (day_then >= calendar.PAYDAY) | (day_then <= 2)
    night = calendar.hour_of(then) < 5
    helped = np.select(
        [why == FUNDS, why == RISK, why == DOWN, why == DATA],
        [
            0.04 + 0.4 * (1 - np.exp(-delay / 40)) + 0.35 * paid,
            0.07 + 0.4 * token * likes[1] + 0.16 * reformat * likes[0] + 0.05 * (delay >= 6),
            0.08 + 0.8 * (1 - np.exp(-delay / 2)) + 0.5 * route * likes[2],
            0.04 + 0.6 * reformat * likes[0] + 0.1 * token * likes[1],
        ],
        0.004,
    )
    tired = (
        0.85 ** (attempts[:, None] - 1)
        * np.where(night, 0.8, 1.0)
        * np.exp(-0.4 * world.issuer_strict[issuer])[:, None]
    )
    chances: npt.NDArray[np.float32] = np.clip(helped * tired, 0.002, 0.97).astype(np.float32)
    return chances


def _sigmoid(odds: Floats) -> Floats:
    return 1 / (1 + np.exp(-odds))
