"""Raw columns of payment events: their names on the wire, and how an event becomes them.

The one encoder, shared by clients, simulator and training. Standard library and numpy only: a client that
scores payments must not need torch. The table in models/README.md is this file in prose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Event = Mapping[str, Any]
Columns = dict[str, npt.NDArray[Any]]
Count = int | npt.NDArray[np.int64]

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
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
    "issuer_unavailable",
    "lost_or_stolen",
)
ADVICE: Final = (
    "",
    "visa_category_1",  # the issuer will never approve
    "visa_category_2",  # cannot approve now
    "visa_category_3",  # data quality: correct it first
    "visa_category_4",  # anything else
    "mastercard_mac_01",  # newer account information exists
    "mastercard_mac_02",  # try again later
    "mastercard_mac_03",  # do not try again
    "mastercard_mac_21",  # the cardholder has cancelled
    "mastercard_mac_24",  # try again after an hour
    "mastercard_mac_25",  # after a day
)
"""What a card network says with a refusal: Visa's decline categories, Mastercard's merchant advice codes."""
ACTIONS: Final = (
    "now",
    "plus_1h",
    "plus_6h",
    "plus_24h",
    "plus_72h",
    "reformat",
    "network_token",
    "other_route",
)
"""What can be done to have a payment approved. The place in the tuple is the code."""
DELAY_H: Final = (0.0, 1.0, 6.0, 24.0, 72.0, 0.0, 0.0, 0.0)
"""Hours each action waits."""
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
    "reports_14d",  # log1p of frauds there that became known in the last 14 days, whenever they happened
    "reported_share",  # those of the last 30 days against the events of the last 30 days, smoothed
    "small_1h",  # share of the last hour's events below 5 units
)
REPORTS_US: Final = (14 * DAY_US, 30 * DAY_US)
"""Windows in which reports of fraud are counted, by when they arrived: that is days or weeks after the fraud."""
SMALL_AMOUNT: Final = 5.0
MAX_REMEMBERED: Final = 65_536
"""Identifiers whose numbers are kept."""
LONGEST_REMEMBERED: Final = 128
"""Characters: whoever sends payments chooses how long an identifier is."""
LABEL_DELAY_US: Final = 30 * DAY_US
"""When a label without `label_ts` counts as known, in training and in serving: so long after its event."""


class _Hashed(dict[str, int]):
    """Identifier → its number: histories name the same ones again and again. A long one is not kept."""

    def __missing__(self, text: str) -> int:
        number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
        if len(text) <= LONGEST_REMEMBERED:
            if len(self) >= MAX_REMEMBERED:
                self.clear()
            self[text] = number
        return number


_HASHED: Final = _Hashed()


def hash_id(text: str) -> int:
    """A stable signed 64-bit number for an identifier; the empty string is 0."""
    return _HASHED[text] if text else 0


def letters_code(text: str) -> int:
    """ISO letters (FR, EUR) as a number in base 27; the empty string is 0. Raises: ValueError for anything else."""
    code = 0
    for letter in str(text).upper():
        if not "A" <= letter <= "Z" or code >= 27**2:
            raise ValueError(f"'{text}' is not an ISO code of letters")
        code = code * 27 + ord(letter) - ord("A") + 1
    return code


def mcc_code(value: str | int) -> int:
    """A merchant category code, four digits; empty is 0. Raises: ValueError for anything else."""
    code = int(value or 0)
    if not 0 <= code <= 9999:
        raise ValueError(f"'{value}' is not a category code of four digits")
    return code


def label_code(value: str | float) -> int:
    """1 for a payment known to be legitimate (0), 2 for fraud (1), 0 for an empty value. Raises: ValueError."""
    if value == "":
        return LABEL_UNKNOWN
    if (number := float(value)) not in (0.0, 1.0):
        raise ValueError(f"'{value}' is not 0, 1 or empty")
    return LABEL_LEGITIMATE + int(number)


def flag_code(value: str | float) -> int:
    """1 for no (0), 2 for yes (1), 0 for an empty value. Raises: ValueError."""
    return label_code(value)


def action_code(value: str) -> int:
    """The place of an action in `ACTIONS`; -1 for an empty value. Raises: ValueError."""
    return ACTIONS.index(str(value).lower()) if value != "" else -1


def timestamp_us(value: str | float) -> int:
    """Microseconds UTC from an integer of them, or from an RFC 3339 string. Raises: ValueError."""
    if not isinstance(value, str):
        return int(value)
    if value.isdigit():
        return int(value)
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - EPOCH) // timedelta(microseconds=1)


def payment_columns(
    payment: Event,
    card_history: Sequence[Event] = (),
    merchant_history: Sequence[Event] = (),
    merchant_stats: Sequence[float] | None = None,
) -> Columns:
    """One payment with its histories as the tensors of `fraud-tx`, each [1, …].

    Histories come in any order; events that are not strictly earlier than the payment, and the payment itself,
    are left out; the newest `CARD_CAP` - 1 and `MERCHANT_CAP` stay. A label counts once its `label_ts` is past
    (`LABEL_DELAY_US` after the event, where it has none). `merchant_stats` are computed from the merchant's history
    where not given. Raises: ValueError or KeyError, naming the field that cannot be encoded.
    """
    now_us = moment_us(payment, "ts")
    cards = earlier(card_history, payment)[-(CARD_CAP - 1) :]
    merchants = [_without_future(event, now_us) for event in earlier(merchant_history, payment)]
    in_hand = {**payment, "outcome": "", "label": ""}
    columns = _columns("card", [*cards, in_hand], CARD_CODES, CARD_IDS)
    columns |= _columns("merchant", merchants[-MERCHANT_CAP:], MERCHANT_CODES, MERCHANT_IDS)
    stats = _stats(merchants, now_us) if merchant_stats is None else np.asarray(merchant_stats, np.float32)
    if stats.shape != (len(MERCHANT_STATS),):
        raise ValueError(f"merchant_stats are {len(MERCHANT_STATS)} numbers ({', '.join(MERCHANT_STATS)})")
    columns["merchant_stats"] = stats[None]
    return columns


def earlier(history: Sequence[Event], payment: Event) -> list[Event]:
    """The events of a history that come strictly before the payment, oldest first; itself is none of them.

    Raises: ValueError or KeyError for an event without a time.
    """
    now_us, own = moment_us(payment, "ts"), payment.get("event_id")
    keyed = [
        (moment_us(event, "ts"), _text(event, "event_id"), event)
        for event in history
        if own is None or event.get("event_id") != own
    ]
    return [event for ts, _, event in sorted(keyed, key=lambda entry: entry[:2]) if ts < now_us]


def stats_of(  # noqa: PLR0913  eight numbers need what they are made of
    *,
    events_1h: Count,
    events_1d: Count,
    events_30d: Count,
    known_1d: Count,
    declined_1d: Count,
    cards_1d: Count,
    reports_14d: Count,
    reports_30d: Count,
    small_1h: Count,
) -> npt.NDArray[np.float32]:
    """The numbers of `MERCHANT_STATS` from what they count, float32 [8], or [rows, 8] from arrays of counts.

    `known_1d`: events of the last day whose outcome is known. `reports`: frauds that became known in `REPORTS_US`.
    """
    return np.stack(
        [
            np.log1p(events_1h),
            np.log1p(events_1d),
            np.log1p(events_30d),
            (np.asarray(declined_1d) + 0.5) / (np.asarray(known_1d) + 5),
            np.log1p(cards_1d),
            np.log1p(reports_14d),
            (np.asarray(reports_30d) + 0.02) / (np.asarray(events_30d) + 10),
            np.asarray(small_1h) / np.maximum(events_1h, 1),
        ],
        axis=-1,
    ).astype(np.float32)


def _code_of(names: Sequence[str]) -> tuple[Callable[[Any], int], str]:
    return lambda value: names.index(str(value).lower()), f"one of {', '.join(filter(None, names))}"


CODES: Final[dict[str, tuple[Callable[[Any], int], str]]] = {
    "mcc": (mcc_code, "a category code of four digits"),
    "country": (letters_code, "an ISO code of letters"),
    "currency": (letters_code, "an ISO code of letters"),
    "channel": _code_of(CHANNELS),
    "outcome": _code_of(OUTCOMES),
    "label": (label_code, "0, 1 or empty"),
    "three_ds": (flag_code, "0, 1 or empty"),
    "network_token": (flag_code, "0, 1 or empty"),
    "advice_code": _code_of(ADVICE),
    "action": (action_code, f"one of {', '.join(ACTIONS)}"),
}
"""Field → its code, and what a value must be."""


def _columns(stream: str, events: Sequence[Event], codes: Sequence[str], ids: Sequence[str]) -> Columns:
    return {
        f"{stream}_ts": np.array([[moment_us(e, "ts") for e in events]], np.int64),
        f"{stream}_amount": np.array([[amount_of(e) for e in events]], np.float32),
        f"{stream}_codes": np.array([[_field(e, name) for name in codes] for e in events], np.int32).reshape(
            1, -1, len(codes)
        ),
        f"{stream}_ids": np.array([[hash_id(_text(e, name)) for name in ids] for e in events], np.int64).reshape(
            1, -1, len(ids)
        ),
    }


def field_code(value: Any, name: str) -> int:
    """The code of a field's value; absent and None are empty. Raises: ValueError, naming the field."""
    encode, expected = CODES[name]
    try:
        return encode("" if value is None else value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{name} '{value}' is not {expected}") from error


def _field(event: Event, name: str) -> int:
    return field_code(event.get(name), name)


def _text(event: Event, name: str) -> str:
    """A field as text; absent and None are empty."""
    value = event.get(name)
    return "" if value is None else str(value)


def moment_us(event: Event, name: str) -> int:
    try:
        return timestamp_us(event[name])
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{name} '{event[name]}' is neither microseconds nor RFC 3339") from error


def amount_of(event: Event) -> float:
    try:
        return float(event["amount"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"amount '{event['amount']}' is not a number") from error


def _without_future(event: Event, now_us: int) -> Event:
    """The event as it was known at `now_us`: a label that came later is not there yet."""
    return event if _known_since(event) < now_us else {**event, "label": ""}


def _stats(history: Sequence[Event], now_us: int) -> npt.NDArray[np.float32]:
    ages = [now_us - moment_us(event, "ts") for event in history]
    day = [event for event, age in zip(history, ages, strict=True) if age <= DAY_US]
    hour = [event for event, age in zip(history, ages, strict=True) if age <= HOUR_US]
    outcomes = [code for event in day if (code := _field(event, "outcome")) != PENDING]
    reported = [now_us - _known_since(event) for event in history if _field(event, "label") == LABEL_FRAUD]
    return stats_of(
        events_1h=len(hour),
        events_1d=len(day),
        events_30d=sum(age <= 30 * DAY_US for age in ages),
        known_1d=len(outcomes),
        declined_1d=sum(code != APPROVED for code in outcomes),
        cards_1d=len({_text(event, "card_id") for event in day}),
        reports_14d=sum(0 < age <= REPORTS_US[0] for age in reported),
        reports_30d=sum(0 < age <= REPORTS_US[1] for age in reported),
        small_1h=sum(amount_of(event) < SMALL_AMOUNT for event in hour),
    )


def _known_since(event: Event) -> int:
    return moment_us(event, "label_ts") if _text(event, "label_ts") else moment_us(event, "ts") + LABEL_DELAY_US
