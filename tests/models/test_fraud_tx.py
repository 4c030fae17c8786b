"""The laws of the model room: a row is a row whatever rides beside it, and no feature knows the future."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace_models import calibration, collate, evaluate, fraud_tx, simulator, spec, train, wire
from headrace_models.events import Events
from headrace_models.history import Timeline

SHIPPED = evaluate.SHIPPED


@cache
def world() -> Timeline:
    return Timeline(simulator.simulate(5, days=40, cards=800, merchants=120, fraud_share=0.02))


@cache
def shipped() -> torch.nn.Module:
    torch.set_num_threads(1)
    return spec.load_module(spec.load_spec(SHIPPED), SHIPPED)


def answer(module: torch.nn.Module, rows: np.ndarray) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        found = module(*train.tensors(world(), rows))
    return {name: values.numpy() for name, values in found.items()}


def test_a_batch_of_one_equals_the_row_of_a_batch() -> None:
    rows = np.random.default_rng(0).choice(len(world().events), 48, replace=False)

    together = answer(shipped(), rows)["p"]
    alone = np.concatenate([answer(shipped(), rows[i : i + 1])["p"] for i in range(len(rows))])
    shuffled = answer(shipped(), rows[::-1].copy())["p"][::-1]

    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(together - shuffled).max() < 1e-5


def test_padding_never_changes_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bucket for all rows pads the short ones to 128: the answers are the same."""
    rows = np.arange(5000, 5040)
    bucketed = answer(shipped(), rows)["p"]
    monkeypatch.setattr(collate.by_bucket, "__defaults__", ((128,),))

    assert np.abs(answer(shipped(), rows)["p"] - bucketed).max() < 1e-5


def test_rows_without_a_merchant_history_get_a_finite_answer() -> None:
    inputs, lengths = world().packed(np.array([0, 1, 20_000 % len(world().events)]))

    assert lengths["merchant"][0] == 0
    assert np.isfinite(answer(shipped(), np.array([0, 1]))["p"]).all()
    assert inputs["merchant_stats"].shape == (3, len(wire.MERCHANT_STATS))


def test_a_merchants_clock_that_is_ahead_by_days_does_not_outweigh_everything() -> None:
    inputs, lengths = train.tensors(world(), np.arange(9000, 9016))
    inputs["merchant_ts"] += 10 * wire.DAY_US
    with torch.inference_mode():
        ahead = shipped()(inputs, lengths)["p"]

    assert int(lengths["merchant"].sum()) > 0
    assert torch.isfinite(ahead).all()


def test_the_future_is_invisible() -> None:
    """Cutting away everything after a payment, and its own outcome and label, changes none of its columns."""
    events = world().events
    row = 9000
    past = Timeline(events.take(np.arange(row + 1)))
    blind = Events(*(getattr(events, name).copy() for name in events.__slots__))
    blind.outcome[row], blind.label[row] = 5, 0

    expected = world().columns(row)
    for other in (past.columns(row), Timeline(blind).columns(row)):
        assert all(np.array_equal(other[name], expected[name]) for name in expected)
    assert expected["card_codes"][0, -1, 4] == wire.PENDING


def test_a_label_is_seen_from_the_moment_it_is_known() -> None:
    events = world().events
    fraud = np.flatnonzero(events.label == wire.LABEL_FRAUD)
    seen = unseen = 0
    for row in range(len(events) - 2000, len(events)):
        columns = world().columns(row)
        for ts, label in zip(columns["merchant_ts"][0], columns["merchant_codes"][0, :, 5], strict=True):
            (index,) = np.flatnonzero(events.ts == ts)
            known = events.label_ts[index] <= events.ts[row]
            assert label == (events.label[index] if known else wire.LABEL_UNKNOWN)
            seen += index in fraud and known
            unseen += index in fraud and not known
        if seen and unseen > 20:
            break
    assert unseen


def test_one_payment_at_a_time_is_the_same_as_many_at_once() -> None:
    rows = np.array([3000, 3001, 8000])
    packed, lengths = world().packed(rows)

    one_by_one = [world().columns(int(row)) for row in rows]

    for name, values in packed.items():
        expected = [columns[name][0] for columns in one_by_one]
        assert np.array_equal(values, np.stack(expected) if name == "merchant_stats" else np.concatenate(expected))
    assert lengths["card"].tolist() == [len(c["card_ts"][0]) for c in one_by_one]


def test_the_same_seed_gives_the_same_world_and_another_another() -> None:
    first, again, other = (simulator.simulate(seed, days=5, cards=200, merchants=50) for seed in (1, 1, 2))

    assert all(np.array_equal(getattr(first, name), getattr(again, name)) for name in first.__slots__)
    assert not np.array_equal(first.amount[:50], other.amount[:50])


def test_fraud_is_as_frequent_as_asked_and_no_raw_column_gives_it_away() -> None:
    events = simulator.simulate(3, days=60, cards=4000, merchants=500, fraud_share=0.01)
    fraud = events.label == wire.LABEL_FRAUD

    assert 0.007 < fraud.mean() < 0.013
    columns = {
        "amount": events.amount,
        "hour": events.ts % wire.DAY_US // wire.HOUR_US,
        "country": events.country,
        "channel": events.channel,
        "outcome": events.outcome,
        "mcc": events.mcc,
    }
    for name, values in columns.items():
        found = calibration.auc(values.astype(float), fraud)
        assert max(found, 1 - found) < 0.75, name


def test_the_shipped_weights_reproduce_their_card() -> None:
    """The same simulated days, the same held-back block: every figure to 1e-3."""
    written, measured = evaluate.card_figures(SHIPPED), evaluate.measure(SHIPPED)

    assert {name: pytest.approx(value, abs=1e-3) for name, value in written.items()} == measured


def test_a_network_that_learns_from_shuffled_labels_learns_nothing() -> None:
    """If it did, a feature would be leaking the answer."""
    rng = np.random.default_rng(0)
    rows = np.arange(2000, 5000)
    target = torch.from_numpy((rng.random(len(rows)) < 0.3).astype(np.float32))
    torch.manual_seed(0)
    model = fraud_tx.build({"layers": 1})
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for part in np.array_split(np.arange(2000), 16):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            model.logits(*train.tensors(world(), rows[part])), target[part]
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    held_back = train.logits(model, world(), rows[2000:])
    assert abs(calibration.auc(held_back, target[2000:].numpy() > 0) - 0.5) < 0.08


def test_training_writes_a_version_that_can_be_served(tmp_path: Path) -> None:
    events = simulator.simulate(5, days=60, cards=1500, merchants=200, fraud_share=0.03)
    csv = tmp_path / "events.csv"
    _write_csv(csv, events)

    code = train.main(["--events", str(csv), "--out", str(tmp_path / "models"), "--epochs", "1", "--threads", "1"])

    assert code == 0
    directory = tmp_path / "models" / "fraud-tx" / "1"
    found = spec.load_spec(directory)
    spec.verify_golden(spec.load_module(found, directory), found, directory)
    assert "| AUC |" in (directory / "MODEL_CARD.md").read_text()


def _write_csv(path: Path, events: Events) -> None:
    names = {wire.letters_code(c): c for c in (*simulator.COUNTRIES, *simulator.CURRENCIES)}
    lines = ["event_id,ts,card_id,merchant_id,amount,currency,mcc,country,channel,outcome,label,label_ts"]
    lines += [
        f"e{i},{events.ts[i]},c{events.card[i]},m{events.merchant[i]},{events.amount[i]},"
        f"{names[int(events.currency[i])]},{events.mcc[i]},{names[int(events.country[i])]},"
        f"{wire.CHANNELS[events.channel[i]]},{wire.OUTCOMES[events.outcome[i]]},{events.label[i] - 1},"
        f"{events.label_ts[i]}"
        for i in range(len(events))
    ]
    path.write_text("\n".join(lines))
