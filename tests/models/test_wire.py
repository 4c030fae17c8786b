"""Events become columns one way only, and what cannot be encoded is named."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from headrace_models import wire

PAYMENT = {
    "event_id": "p", "ts": "2026-03-01T12:00:00Z", "card_id": "c", "merchant_id": "m", "amount": 12.5,
    "currency": "EUR", "mcc": 5411, "country": "FR", "channel": "chip",
}  # fmt: skip


def event(event_id: str, ts: str, **changes: object) -> dict[str, object]:
    return {**PAYMENT, "event_id": event_id, "ts": ts, "outcome": "approved", **changes}


def test_histories_are_sorted_and_only_what_came_before_counts() -> None:
    history = [
        event("b", "2026-03-01T11:00:00Z"),
        event("a", "2026-03-01T10:00:00Z", amount=3),
        event("p", "2026-03-01T09:00:00Z"),  # the payment itself, delivered before
        event("late", "2026-03-01T12:00:00Z"),
    ]

    columns = wire.payment_columns(PAYMENT, history, history)

    assert columns["card_amount"].tolist() == [[3, 12.5, 12.5]]
    assert columns["card_codes"][0, :, 4].tolist() == [1, 1, wire.PENDING]
    assert columns["merchant_ts"].shape == (1, 2)
    assert columns["merchant_stats"].shape == (1, 8)


def test_a_label_from_the_future_is_not_there_yet() -> None:
    known = event("a", "2026-01-01T00:00:00Z", label=1, label_ts="2026-02-01T00:00:00Z")
    later = event("b", "2026-01-02T00:00:00Z", label=1, label_ts="2026-04-01T00:00:00Z")

    columns = wire.payment_columns(PAYMENT, (), [known, later])

    assert columns["merchant_codes"][0, :, 5].tolist() == [wire.LABEL_FRAUD, wire.LABEL_UNKNOWN]


def test_a_card_without_history_is_one_event_long() -> None:
    columns = wire.payment_columns(PAYMENT)

    assert columns["card_ts"].shape == (1, 1)
    assert columns["merchant_ids"].shape == (1, 0, 3)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"channel": "pigeon"}, "channel 'pigeon' is not one of chip"),
        ({"country": "F1"}, "country 'F1' is not an ISO code"),
        ({"currency": "EURO"}, "currency 'EURO' is not an ISO code"),
        ({"ts": "yesterday"}, "ts 'yesterday' is neither microseconds nor RFC 3339"),
        ({"amount": "much"}, "amount 'much' is not a number"),
        ({"mcc": 12345}, "mcc '12345' is not a category code"),
    ],
)
def test_what_cannot_be_encoded_is_named(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        wire.payment_columns({**PAYMENT, **change})


def test_a_field_that_is_absent_is_the_same_as_one_that_is_none() -> None:
    absent = wire.payment_columns(PAYMENT, [event("a", "2026-03-01T10:00:00Z")])
    none = {"device_id": None, "issuer_bin": None, "outcome": None}

    columns = wire.payment_columns({**PAYMENT, **none}, [event("a", "2026-03-01T10:00:00Z", device_id=None)])

    assert all(np.array_equal(columns[name], absent[name]) for name in absent)
    assert columns["card_ids"][0, :, 1].tolist() == [0, 0]


def test_moments_are_exact_to_the_microsecond_in_every_notation() -> None:
    same: list[str | int] = [
        "2026-03-01T12:00:00.123457Z",
        "2026-03-01T13:00:00.123457+01:00",
        "1772366400123457",
        1772366400123457,
    ]

    assert {wire.timestamp_us(value) for value in same} == {1_772_366_400_123_457}


def test_hashes_and_codes_never_change() -> None:
    """Weights depend on them: another number here is another model."""
    assert wire.hash_id("") == 0
    assert wire.hash_id("card-1") == -1059683803043486728
    assert wire.letters_code("FR") == 6 * 27 + 18
    assert (wire.PENDING, wire.OUTCOMES[wire.APPROVED], wire.CHANNELS[4]) == (0, "approved", "ecommerce")


def test_the_merchants_aggregates_count_what_their_names_say() -> None:
    history = [
        event("h", "2026-03-01T11:30:00Z", card_id="a", amount=2, outcome="declined"),
        event("d", "2026-03-01T01:00:00Z", card_id="b"),
        event("w", "2026-02-20T12:00:00Z", card_id="a", label=1, label_ts="2026-02-27T00:00:00Z"),
        event("o", "2026-01-05T12:00:00Z", card_id="c", label=1, label_ts="2026-02-05T00:00:00Z"),
    ]

    stats = dict(zip(wire.MERCHANT_STATS, wire.payment_columns(PAYMENT, (), history)["merchant_stats"][0], strict=True))

    expected = {
        "events_1h": np.log1p(1), "events_1d": np.log1p(2), "events_30d": np.log1p(3), "declined_1d": 1.5 / 7,
        "cards_1d": np.log1p(2), "reports_14d": np.log1p(1), "reported_share": 2.02 / 13, "small_1h": 1.0,
    }  # fmt: skip
    assert stats == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="merchant_stats are 8 numbers"):
        wire.payment_columns(PAYMENT, merchant_stats=[1.0, 2.0])


def test_the_encoder_needs_no_torch() -> None:
    code = "import sys, headrace_models.wire, headrace.client; print('torch' in sys.modules or 'ray' in sys.modules)"

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert out.stdout.strip() == "False"
