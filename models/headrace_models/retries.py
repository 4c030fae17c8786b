"""Which retries the card networks forbid, and how one of the others is chosen. Outside of the model, and before it.

A table of rules with a version; a masked action has probability 0 whatever the model thinks of it. The figures
are those TabaPay's documentation gives, citing Visa's Core Rules of 18 April 2026 and Mastercard's; verify them
against the rules in force in your region.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from headrace_models import wire

VERSION: Final = "2026-04-18"
PAD: Final = -1
"""Not an action: a candidate's place that is not used."""
NO_ACTION: Final = "no-action"
"""The rule that forbids what is no action."""
STOP: Final = -1
"""The choice not to try again."""
VISA, MASTERCARD = "visa", "mastercard"
SCHEMES: Final = (VISA, MASTERCARD)

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Limit:
    """At most so many re-attempts within so long."""

    rule: str
    scheme: str
    attempts: int
    window_h: float


@dataclass(frozen=True, slots=True)
class Never:
    """After this advice nothing may be tried again."""

    rule: str
    scheme: str
    advice: str


NEVER: Final = (
    Never("visa-category-1", VISA, "visa_category_1"),
    Never("mastercard-mac-03", MASTERCARD, "mastercard_mac_03"),
    Never("mastercard-mac-21", MASTERCARD, "mastercard_mac_21"),
)
LIMITS: Final = (
    Limit("visa-20-in-30-days", VISA, 20, 30 * 24),
    Limit("mastercard-10-in-24-hours", MASTERCARD, 10, 24),
    Limit("mastercard-35-in-30-days", MASTERCARD, 35, 30 * 24),
)


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may be tried: one entry a candidate."""

    mask: Mask
    rules: tuple[str, ...]
    """The rule that forbids each candidate; empty where it is allowed."""
    candidates: tuple[int, ...] = tuple(range(len(wire.ACTIONS)))


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided, with all that a later estimate needs."""

    action: int
    """A place in `wire.ACTIONS`, or STOP."""
    propensity: float
    """Probability with which it was chosen. Log it: without it nothing can be learnt from what follows."""
    expected_value: float
    """Of the chosen action, currency units; 0 for STOP."""
    rule: str
    """Why nothing was tried, where that is a network's rule: its id."""


def allowed(
    scheme: str, advice: Sequence[str], attempted_h: Sequence[float], candidates: Sequence[int] = tuple(range(8))
) -> Allowed:
    """Which of `candidates` may be tried on this payment.

    `advice`: of every attempt so far. `attempted_h`: hours ago at which each re-attempt was made, the first attempt
    not among them. An action is judged at the moment it would happen. Raises: ValueError for an unknown scheme.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme '{scheme}' is not one of {', '.join(SCHEMES)}")
    rules = tuple(_rule(scheme, advice, attempted_h, action) for action in candidates)
    return Allowed(np.array([not rule for rule in rules]), rules, tuple(candidates))


def _rule(scheme: str, advice: Sequence[str], attempted_h: Sequence[float], action: int) -> str:
    """The first rule that forbids an action; empty: none does."""
    if action == PAD:
        return NO_ACTION
    for never in NEVER:
        if never.scheme == scheme and never.advice in advice:
            return never.rule
    delay_h = wire.DELAY_H[action]
    for limit in LIMITS:
        if limit.scheme == scheme:
            recent = sum(ago + delay_h < limit.window_h for ago in attempted_h)
            if recent >= limit.attempts:
                return limit.rule
    return ""


def probabilities(
    approve: npt.ArrayLike, mask: Mask, amount: float, cost: float, *, sharpness: float = 20.0, floor: float = 0.02
) -> Floats:
    """The policy: how likely each candidate is to be chosen, then STOP, [K + 1]. Sums to 1; masked is 0.

    Softmax of the expected value, `approve` · amount - cost, as a share of the amount; STOP is worth nothing. Every
    allowed candidate keeps `floor`: exploration is small, uneven and never zero where anything is to be learnt.
    """
    worth = np.append(np.asarray(approve, float) - cost / max(amount, 1e-9), 0.0)
    able = np.append(mask, True)
    odds = np.where(able, np.exp(sharpness * (worth - worth[able].max())), 0.0)
    policy: Floats = (1 - floor * mask.sum()) * odds / odds.sum() + floor * np.append(mask, False)
    return policy


def choose(approve: npt.ArrayLike, options: Allowed, amount: float, cost: float, draw: float) -> Choice:
    """Decide. `approve`: the model's P(approved) of the candidates; `draw`: the caller's randomness, from 0 below 1."""
    policy = probabilities(approve, options.mask, amount, cost)
    place = min(int(np.searchsorted(np.cumsum(policy), draw, side="right")), len(policy) - 1)
    if place == len(options.candidates):
        broken = [rule for rule in options.rules if rule not in ("", NO_ACTION)]
        return Choice(STOP, float(policy[-1]), 0.0, broken[0] if broken and not options.mask.any() else "")
    value = float(np.asarray(approve, float)[place]) * amount - cost
    return Choice(options.candidates[place], float(policy[place]), value, "")
