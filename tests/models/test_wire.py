"""Events become columns one way only, and what cannot be encoded is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from headrace_models import wire
from headrace_models.datasets import DatasetError, read_events

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
        ({"country": "F1"}, "'F1' is not an ISO code"),
        ({"ts": "yesterday"}, "Invalid isoformat string"),
    ],
)
def test_what_cannot_be_encoded_is_named(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        wire.payment_columns({**PAYMENT, **change})


def test_the_encoder_needs_no_torch() -> None:
    code = "import sys, headrace_models.wire, headrace.client; print('torch' in sys.modules or 'ray' in sys.modules)"

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert out.stdout.strip() == "False"


HEADER = "event_id,ts,card_id,merchant_id,amount,currency,mcc,country,channel,label,label_ts\n"


def test_rows_that_cannot_be_true_are_set_aside_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text(
        HEADER
        + "a,1000,c,m,5,EUR,5411,FR,chip,0,2000\n"
        + "a,1000,c,m,5,EUR,5411,FR,chip,0,2000\n"
        + "b,1000,c,m,-5,EUR,5411,FR,chip,0,2000\n"
        + "d,1000,c,m,5,EUR,5411,FR,chip,1,500\n"
        + "e,1000,c,m,5,EUR,5411,FR,pigeon,1,\n"
        + "f,900,c,m,5,EUR,5411,FR,chip,,\n"
    )

    events, causes = read_events(path)

    assert np.array_equal(events.label, [wire.LABEL_UNKNOWN, wire.LABEL_LEGITIMATE])
    assert (
        causes["duplicate event_id"] == causes["amount is not a positive number"] == causes["label_ts before ts"] == 1
    )
    assert sum(causes.values()) == 4


def test_missing_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text("event_id,ts\na,1\n")

    with pytest.raises(DatasetError, match="has no column card_id, merchant_id, amount"):
        read_events(path)


def test_ids_of_a_csv_are_text_so_leading_zeros_count(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    header = HEADER.replace("merchant_id", "shop")
    path.write_text(header + "1,1000,004123,007,5,EUR,5411,FR,chip,0,2000\n2,1001,4123,7,5,EUR,5411,FR,chip,0,2000\n")

    events, causes = read_events(path, {"shop": "merchant_id"})

    assert not causes
    assert events.card.tolist() == [wire.hash_id("004123"), wire.hash_id("4123")]
    assert events.merchant.tolist() == [wire.hash_id("007"), wire.hash_id("7")]
