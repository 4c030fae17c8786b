"""The simulated population: cards, merchants, issuers. What stays the same while payments happen.

Distributions: home countries, merchants' countries and popularity are Zipf; a card's payments a day are log-normal;
a card's and a merchant's usual amounts are log-normal; subscriptions are Poisson.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

COUNTRIES: Final = ("FR", "DE", "GB", "US", "ES", "IT", "NL", "PL", "SE", "BR", "JP", "TH")
CURRENCIES: Final = ("EUR", "EUR", "GBP", "USD", "EUR", "EUR", "EUR", "PLN", "SEK", "BRL", "JPY", "THB")
MCCS: Final = (5411, 5812, 5541, 5999, 5732, 4111, 5691, 7995, 4814, 5912, 7011, 5816)
ONLINE_MCCS: Final = (5999, 5732, 7995, 4814, 5816)
SUBSCRIPTION_MCCS: Final = (4814, 5816)
ISSUERS: Final = 40
BINS_PER_ISSUER: Final = 5
TRIP_EVERY_DAYS: Final = 60
"""Every card may travel once in so many days."""
MAX_SUBSCRIPTIONS: Final = 3
SEGMENTS: Final = 3
"""Early, ordinary and late people: their hours differ (`calendar.HOURS`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One entry per card, per merchant or per issuer."""

    days: int

    card_rate: Floats
    """Payments a day."""
    card_opened: Floats
    """Day of the first payment; below 0 for the cards that were there before."""
    card_country: Ints
    card_segment: Ints
    card_amount: Floats
    """Log of the usual amount."""
    card_favourites: Ints
    """[cards, 6] merchants."""
    card_device: Ints
    card_issuer: Ints
    card_bin: Ints
    trip_begin: Floats
    """[cards, trips] day on which a trip begins; likewise its days and its country."""
    trip_days: Floats
    trip_country: Ints
    subscription: Ints
    """[cards, MAX_SUBSCRIPTIONS] merchant, or -1; likewise its amount and its day of the month."""
    subscription_amount: Floats
    subscription_day: Ints

    merchant_country: Ints
    merchant_mcc: Ints
    """Place in MCCS."""
    merchant_amount: Floats
    merchant_online: npt.NDArray[np.bool_]
    popularity: Floats

    issuer_strict: Floats
    """Log odds by which an issuer refuses more than others."""
    issuer_mastercard: npt.NDArray[np.bool_]
    issuer_night: Ints
    """Hour in which its systems are serviced."""
    issuer_likes: Floats
    """[issuers, 3] how well another format, a network token and another route work there: around 1."""

    @property
    def cards(self) -> int:
        return len(self.card_rate)

    @property
    def merchants(self) -> int:
        return len(self.popularity)

    @property
    def online(self) -> Ints:
        """The merchants that sell online."""
        return np.flatnonzero(self.merchant_online)


def zipf(n: int, exponent: float) -> Floats:
    weights: Floats = np.arange(1, n + 1, dtype=float) ** -exponent
    shares: Floats = weights / weights.sum()
    return shares


def populate(rng: np.random.Generator, days: int, cards: int, merchants: int) -> World:
    """A world for `days` of payments."""
    trips = (cards, days // TRIP_EVERY_DAYS + 1)
    popularity = zipf(merchants, 0.9)
    mcc = rng.integers(0, len(MCCS), merchants)
    issuer = rng.choice(ISSUERS, cards, p=zipf(ISSUERS, 0.6))
    return World(
        days=days,
        card_rate=rng.lognormal(-1.4, 0.8, cards).clip(0.02, 4),
        card_opened=np.where(rng.random(cards) < 0.15, rng.uniform(0, days, cards), -1.0),
        card_country=rng.choice(len(COUNTRIES), cards, p=zipf(len(COUNTRIES), 0.7)),
        card_segment=rng.choice(SEGMENTS, cards, p=[0.2, 0.55, 0.25]),
        card_amount=rng.normal(3.1, 0.5, cards),
        card_favourites=rng.choice(merchants, (cards, 6), p=popularity),
        card_device=_devices(rng, cards),
        card_issuer=issuer,
        card_bin=issuer * BINS_PER_ISSUER + rng.integers(0, BINS_PER_ISSUER, cards),
        trip_begin=np.arange(trips[1]) * TRIP_EVERY_DAYS + rng.uniform(0, TRIP_EVERY_DAYS - 8, trips),
        trip_days=rng.choice([0.0, 3.0, 7.0], trips, p=[0.5, 0.3, 0.2]),
        trip_country=rng.choice(len(COUNTRIES), trips, p=zipf(len(COUNTRIES), 0.7)),
        **_subscriptions(rng, cards, mcc),
        merchant_country=rng.choice(len(COUNTRIES), merchants, p=zipf(len(COUNTRIES), 0.7)),
        merchant_mcc=mcc,
        merchant_amount=rng.normal(3.2, 0.9, merchants),
        merchant_online=np.isin(np.array(MCCS)[mcc], ONLINE_MCCS),
        popularity=popularity,
        issuer_strict=rng.normal(0, 0.35, ISSUERS),
        issuer_mastercard=np.arange(ISSUERS) % 2 == 1,
        issuer_night=rng.integers(1, 6, ISSUERS),
        issuer_likes=rng.uniform(0.4, 1.6, (ISSUERS, 3)),
    )


def _devices(rng: np.random.Generator, cards: int) -> Ints:
    """Each card's own, but one in twenty uses that of the household's other card."""
    own = np.arange(cards)
    return np.where(rng.random(cards) < 0.05, np.maximum(own - 1, 0), own)


def _subscriptions(rng: np.random.Generator, cards: int, mcc: Ints) -> dict[str, Any]:
    shape = (cards, MAX_SUBSCRIPTIONS)
    sellers = np.flatnonzero(np.isin(np.array(MCCS)[mcc], SUBSCRIPTION_MCCS))
    count = rng.poisson(0.7, cards)
    held = np.arange(MAX_SUBSCRIPTIONS) < count[:, None]
    seller = rng.choice(sellers, shape) if len(sellers) else np.full(shape, -1)
    return {
        "subscription": np.where(held, seller, -1),
        "subscription_amount": rng.choice([4.99, 7.99, 9.99, 12.99, 17.99, 29.0], shape),
        "subscription_day": rng.integers(1, 29, shape),
    }
