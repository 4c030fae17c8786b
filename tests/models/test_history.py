"""No feature knows the future: what a payment's columns may hold, and that every way to make them agrees."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace_models import datasets, simulator, wire
from headrace_models.history import Timeline


@cache
def world() -> Timeline:
    return Timeline(simulator.simulate(5, days=60, cards=900, merchants=120, fraud_share=0.01))


def test_the_future_is_invisible() -> None:
    """Cutting away everything after a payment, and its own outcome and label, changes none of its columns."""
    events = world().events
    row = 9000
    past = Timeline(events.take(np.arange(row + 1)))
    outcome, label = events.outcome.copy(), events.label.copy()
    outcome[row], label[row] = 5, 0

    expected = world().columns(row)
    for other in (past.columns(row), Timeline(replace(events, outcome=outcome, label=label)).columns(row)):
        assert all(np.array_equal(other[name], expected[name]) for name in expected)
    assert expected["card_codes"][0, -1, 4] == wire.PENDING


def test_history_is_strictly_earlier_and_the_newest_up_to_the_cap() -> None:
    events = simulator.simulate(6, days=90, cards=200, merchants=50)
    cards, counts = np.unique(events.card, return_counts=True)
    busiest = np.flatnonzero(events.card == cards[np.argmax(counts)])
    last = int(busiest[-1])
    assert len(busiest) > wire.CARD_CAP

    columns = Timeline(events).columns(last)

    assert np.array_equal(columns["card_ts"][0], events.ts[busiest][-wire.CARD_CAP :])
    assert (columns["merchant_ts"][0] < events.ts[last]).all()
    assert len(columns["merchant_ts"][0]) <= wire.MERCHANT_CAP


def test_a_label_is_seen_from_the_moment_it_is_known() -> None:
    events = world().events
    moment = {int(ts): index for index, ts in enumerate(events.ts)}
    seen = unseen = 0
    for row in np.flatnonzero(events.label == wire.LABEL_FRAUD)[-150:]:
        columns = world().columns(int(row))
        for ts, label in zip(columns["merchant_ts"][0], columns["merchant_codes"][0, :, 5], strict=True):
            index = moment[int(ts)]
            known = events.label_ts[index] < events.ts[row]
            assert label == (events.label[index] if known else wire.LABEL_UNKNOWN)
            seen, unseen = seen + known, unseen + (not known)

    assert seen > 10
    assert unseen > 100


def test_a_payments_own_label_is_never_among_its_features() -> None:
    """Not even where a file says that it was known at the very moment of the payment."""
    events = world().events
    fraud = np.flatnonzero(events.label == wire.LABEL_FRAUD)[-20:]
    label_ts = events.label_ts.copy()
    label_ts[fraud] = events.ts[fraud]
    at_once, never = replace(events, label_ts=label_ts), events.label.copy()
    for row in fraud:
        never[row] = wire.LABEL_UNKNOWN
        blind = replace(at_once, label=never)
        seen, unseen = (Timeline(one).columns(int(row)) for one in (at_once, blind))
        assert all(np.array_equal(seen[name], unseen[name]) for name in seen)
        never[row] = wire.LABEL_FRAUD


def test_a_store_that_lags_shows_less_and_the_payment_all_the_same() -> None:
    events, row = world().events, 12_000
    late = Timeline(events, stale_us=6 * wire.HOUR_US).columns(row)
    now = world().columns(row)

    assert late["card_ts"][0, -1] == now["card_ts"][0, -1] == events.ts[row]
    for ts in (late["card_ts"][0, :-1], late["merchant_ts"][0]):
        assert (ts < events.ts[row] - 6 * wire.HOUR_US).all()
    assert late["merchant_stats"][0, 0] <= now["merchant_stats"][0, 0]


def test_one_payment_at_a_time_is_the_same_as_many_at_once() -> None:
    rows = np.array([3000, 3001, 8000])
    packed, lengths = world().packed(rows)

    one_by_one = [world().columns(int(row)) for row in rows]

    for name, values in packed.items():
        expected = [columns[name][0] for columns in one_by_one]
        assert np.array_equal(values, np.stack(expected) if name == "merchant_stats" else np.concatenate(expected))
    assert lengths["card"].tolist() == [len(c["card_ts"][0]) for c in one_by_one]


@pytest.mark.parametrize("row", [40, 700, 1999])
def test_a_client_sends_what_training_saw(tmp_path: Path, row: int) -> None:
    """Events as a user has them: read from a file for training, sent as mappings when a payment is scored."""
    rng = np.random.default_rng(4)
    rows: list[dict[str, Any]] = [
        {
            "event_id": f"e{i:05}",
            "ts": 1_767_225_600_000_000 + int(rng.integers(0, 70 * 24 * 60)) * 60_000_000,  # minutes: many ties
            "card_id": f"c{rng.integers(8)}",
            "merchant_id": f"m{rng.integers(5)}",
            "amount": round(float(rng.lognormal(3, 1)), 2),
            "currency": "EUR",
            "mcc": "5411",
            "country": "FR",
            "channel": "chip",
            "device_id": f"d{rng.integers(9)}",
            "issuer_bin": "004123",
            "outcome": str(rng.choice(["approved", "declined", ""])),
            "label": str(rng.choice(["0", "1", ""])),
        }
        for i in range(2000)
    ]
    for event in rows:
        known = event["label"] and rng.random() < 0.8  # the others count 30 days later, here and there
        event["label_ts"] = event["ts"] + int(rng.integers(0, 40)) * wire.DAY_US if known else ""
    path = tmp_path / "events.csv"
    path.write_text("\n".join([",".join(rows[0]), *(",".join(map(str, event.values())) for event in rows)]))
    timeline = Timeline(datasets.read_events(path)[0])
    rows.sort(key=lambda event: (event["ts"], event["event_id"]))
    payment = rows[row]

    sent = wire.payment_columns(
        payment,
        [event for event in rows if event["card_id"] == payment["card_id"]],
        [event for event in rows if event["merchant_id"] == payment["merchant_id"]],
    )

    trained = timeline.columns(row)
    assert sent.keys() == trained.keys()
    for name, values in sent.items():
        assert values.dtype == trained[name].dtype
        assert np.array_equal(values, trained[name]), name
