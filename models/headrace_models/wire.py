"""Raw columns of payment events: their names on the wire, and how an event becomes them.

The one encoder, shared by clients, simulator and training. Standard library and numpy only: a client that
scores payments must not need torch. The table in models/README.md is this file in prose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Event = Mapping[str, Any]
Columns = dict[str, npt.NDArray[Any]]

CARD_CAP: Final = 128
MERCHANT_CAP: Final = 64
HOUR_US: Final = 3_600_000_000
DAY_US: Final = 24 * HOUR_US

CHANNELS: Final = ("", "chip", "contactless", "magstripe", "ecommerce", "recurring", "phone_order", "atm")
"""How the card was read; the place in the tuple is the code."""
OUTCOMES: Final = (
    "",  # PENDING: the payment in hand, or one whose answer is not known yet
    "approved",
    "declined",
    "insufficient_funds",
    "do_not_honor",
    "suspected_fraud",
    "invalid_cvc",
    "expired_card",
)
PENDING: Final = 0
APPROVED: Final = 1
LABEL_UNKNOWN, LABEL_LEGITIMATE, LABEL_FRAUD = 0, 1, 2

CARD_CODES: Final = ("mcc", "country", "currency", "channel", "outcome")
MERCHANT_CODES: Final = (*CARD_CODES, "label")
CARD_IDS: Final = ("merchant_id", "device_id", "issuer_bin")
MERCHANT_IDS: Final = ("card_id", "device_id", "issuer_bin")
MERCHANT_STATS: Final = (
    "events_1h",  # log1p of the merchant's events in the last hour
    "events_1d",
    "events_30d",
    "declined_1d",  # share of the last day's events with a known outcome that were declined
    "cards_1d",  # log1p of distinct cards of the last day
    "labels",  # log1p of labels that became known in the last 60 days
    "fraud_share",  # smoothed share of fraud among them
    "small_1h",  # share of the last hour's events below 5 units
)
STATS_WINDOW_US: Final = 60 * DAY_US
SMALL_AMOUNT: Final = 5.0


@lru_cache(maxsize=65_536)
def hash_id(text: str) -> int:
    """A stable signed 64-bit number for an identifier; the empty string is 0."""
    if not text:
        return 0
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def letters_code(text: str) -> int:
    """ISO letters (FR, EUR) as a number in base 27; the empty string is 0. Raises: ValueError for anything else."""
    code = 0
    for letter in text.upper():
        if not "A" <= letter <= "Z":
            raise ValueError(f"'{text}' is not an ISO code of letters")
        code = code * 27 + ord(letter) - ord("A") + 1
    return code


def name_code(name: str, names: Sequence[str], what: str) -> int:
    """The code of a channel or outcome. Raises: ValueError for a name that is not in the table."""
    try:
        return names.index(name.lower())
    except ValueError as error:
        raise ValueError(f"{what} '{name}' is not one of {', '.join(filter(None, names))}") from error


def timestamp_us(value: str | float) -> int:
    """Microseconds UTC from an integer of them, or from an RFC 3339 string. Raises: ValueError."""
    if not isinstance(value, str):
        return int(value)
    if value.isdigit():
        return int(value)
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1e6)


def payment_columns(
    payment: Event,
    card_history: Sequence[Event] = (),
    merchant_history: Sequence[Event] = (),
    merchant_stats: Sequence[float] | None = None,
) -> Columns:
    """One payment with its histories as the tensors of `fraud-tx`, each [1, …].

    Histories come in any order; events that are not strictly earlier than the payment, and the payment itself,
    are left out; the newest `CARD_CAP` - 1 and `MERCHANT_CAP` stay. A label counts from its `label_ts` on (at
    once, where an event has none). `merchant_stats` are computed from the merchant's history where not given.
    Raises: ValueError or KeyError, naming the field that cannot be encoded.
    """
    now_us = timestamp_us(payment["ts"])
    cards = earlier(card_history, payment)[-(CARD_CAP - 1) :]
    merchants = [_without_future(event, now_us) for event in earlier(merchant_history, payment)]
    in_hand = {**payment, "outcome": "", "label": ""}
    columns = _columns("card", [*cards, in_hand], CARD_CODES, CARD_IDS)
    columns |= _columns("merchant", merchants[-MERCHANT_CAP:], MERCHANT_CODES, MERCHANT_IDS)
    stats = _stats(merchants, now_us) if merchant_stats is None else np.asarray(merchant_stats, np.float32)
    columns["merchant_stats"] = stats[None]
    return columns


def earlier(history: Sequence[Event], payment: Event) -> list[Event]:
    """The events of a history that come strictly before the payment, oldest first; itself is none of them.

    Raises: ValueError or KeyError for an event without a time.
    """
    now_us, own = timestamp_us(payment["ts"]), payment.get("event_id")
    keyed = [
        (timestamp_us(event["ts"]), str(event.get("event_id", "")), event)
        for event in history
        if own is None or event.get("event_id") != own
    ]
    return [event for ts, _, event in sorted(keyed, key=lambda entry: entry[:2]) if ts < now_us]


def aggregate(  # noqa: PLR0913  eight numbers need what they are made of
    age_us: npt.NDArray[np.int64],
    amount: npt.NDArray[Any],
    outcome: npt.NDArray[Any],
    card: npt.NDArray[np.int64],
    *,
    events_30d: int,
    labels: int,
    frauds: int,
) -> npt.NDArray[np.float32]:
    """The numbers of `MERCHANT_STATS`, float32[8].

    Shapes: the arrays hold the merchant's events of the last day, in any order. `labels` and `frauds` count what
    has become known of its events during the last 60 days.
    """
    hour = age_us <= HOUR_US
    events_1h, known = int(np.count_nonzero(hour)), outcome != PENDING
    return np.array(
        [
            np.log1p(events_1h),
            np.log1p(len(age_us)),
            np.log1p(events_30d),
            (np.count_nonzero(known & (outcome != APPROVED)) + 0.5) / (np.count_nonzero(known) + 5),
            np.log1p(len(np.unique(card))),
            np.log1p(labels),
            (frauds + 0.02) / (labels + 10),
            np.count_nonzero(hour & (amount < SMALL_AMOUNT)) / max(events_1h, 1),
        ],
        np.float32,
    )


def _columns(stream: str, events: Sequence[Event], codes: Sequence[str], ids: Sequence[str]) -> Columns:
    return {
        f"{stream}_ts": np.array([[timestamp_us(e["ts"]) for e in events]], np.int64),
        f"{stream}_amount": np.array([[float(e["amount"]) for e in events]], np.float32),
        f"{stream}_codes": np.array([[_code(e, name) for name in codes] for e in events], np.int32).reshape(
            1, -1, len(codes)
        ),
        f"{stream}_ids": np.array([[hash_id(str(e.get(name, ""))) for name in ids] for e in events], np.int64).reshape(
            1, -1, len(ids)
        ),
    }


def _code(event: Event, name: str) -> int:
    value = event.get(name, "")
    if name == "mcc":
        return int(value or 0)
    if name == "channel":
        return name_code(str(value), CHANNELS, "channel")
    if name == "outcome":
        return name_code(str(value), OUTCOMES, "outcome")
    if name == "label":
        return LABEL_UNKNOWN if value in ("", None) else LABEL_LEGITIMATE + int(value)
    return letters_code(str(value))


def _without_future(event: Event, now_us: int) -> Event:
    """The event as it was known at `now_us`: a label that came later is not there yet."""
    label_ts = event.get("label_ts")
    if label_ts in ("", None) or timestamp_us(label_ts) <= now_us:
        return event
    return {**event, "label": ""}


def _stats(history: Sequence[Event], now_us: int) -> npt.NDArray[np.float32]:
    ages = [now_us - timestamp_us(event["ts"]) for event in history]
    day = [(event, age) for event, age in zip(history, ages, strict=True) if age <= DAY_US]
    known = [_code(e, "label") for e in history if now_us - _known_since(e) <= STATS_WINDOW_US]
    return aggregate(
        np.array([age for _, age in day], np.int64),
        np.array([float(event["amount"]) for event, _ in day]),
        np.array([_code(event, "outcome") for event, _ in day], np.int32),
        np.array([hash_id(str(event.get("card_id", ""))) for event, _ in day], np.int64),
        events_30d=sum(age <= 30 * DAY_US for age in ages),
        labels=sum(label != LABEL_UNKNOWN for label in known),
        frauds=known.count(LABEL_FRAUD),
    )


def _known_since(event: Event) -> int:
    label_ts = event.get("label_ts")
    return timestamp_us(event["ts"] if label_ts in ("", None) else label_ts)
