"""The laws of the fraud models: a row is a row whatever rides beside it, however it is padded, and it can say why."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
import torch

from headrace_models import collate, explain, fraud_gru, fraud_tx, simulator, wire
from headrace_models.training.recipes import RECIPES
from headrace_models.training.tasks import FraudTask, tensors

FRAUD = ("fraud-tx", "fraud-tx-s", "fraud-gru")


@cache
def world() -> FraudTask:
    return FraudTask(simulator.simulate(5, days=60, cards=900, merchants=120, fraud_share=0.01))


@cache
def module(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return RECIPES[name].build(dict(RECIPES[name].config)).eval()


def logits(name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        found: npt.NDArray[np.float32] = world().logit(module(name), tensors(world(), rows), rows).numpy()
    return found


@pytest.mark.parametrize("name", FRAUD)
def test_a_batch_of_one_equals_the_row_of_a_batch(name: str) -> None:
    rows = np.random.default_rng(0).choice(len(world().events), 48, replace=False)

    together = logits(name, rows)
    alone = np.concatenate([logits(name, rows[i : i + 1]) for i in range(len(rows))])
    shuffled = logits(name, rows[::-1].copy())[::-1]

    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(together - shuffled).max() < 1e-5


def test_padding_never_changes_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows padded to 128: the answers are the same."""
    rows = np.arange(12_000, 12_040)
    bucketed = logits("fraud-tx", rows)
    monkeypatch.setattr(collate, "by_bucket", lambda lengths: [(torch.arange(len(lengths)), 128)])

    assert np.abs(logits("fraud-tx", rows) - bucketed).max() < 1e-5


def test_only_the_scored_event_is_computed_in_the_last_block_and_nothing_is_lost_by_it() -> None:
    """The last block's short cut against the whole block, event by event."""
    block = module("fraud-tx").blocks[-1]  # type: ignore[index]
    x = torch.randn(5, 16, 64)
    cos, sin = fraud_tx.angles(torch.randn(5, 16), 32)
    turn = cos[:, None], sin[:, None]
    last = torch.tensor([15, 0, 7, 3, 15])

    with torch.inference_mode():
        whole, short = block(x, turn), block.last(x, turn, last)  # type: ignore[operator]

    assert torch.allclose(whole[torch.arange(5), last], short, atol=1e-6)


def test_rows_without_a_merchant_history_get_a_finite_answer() -> None:
    inputs, lengths = tensors(world(), np.array([0, 1, 9000]))

    assert lengths["merchant"][0] == 0
    assert np.isfinite(logits("fraud-tx", np.array([0, 1]))).all()
    assert inputs["merchant_stats"].shape == (3, len(wire.MERCHANT_STATS))


def test_a_merchants_clock_that_is_days_ahead_is_answered_finitely() -> None:
    inputs, lengths = tensors(world(), np.arange(9000, 9010))
    inputs["merchant_ts"] += 3 * wire.DAY_US

    with torch.inference_mode():
        answers = module("fraud-tx")(inputs, lengths)

    assert torch.isfinite(answers["p"]).all()


@pytest.mark.parametrize("name", ["fraud-tx", "fraud-gru"])
def test_a_model_that_learns_from_shuffled_labels_learns_nothing(name: str) -> None:
    """If it did, a feature would be leaking the answer."""
    rng = np.random.default_rng(0)
    rows = rng.permutation(np.arange(4000, 9000))
    target = torch.from_numpy((rng.random(len(rows)) < 0.3).astype(np.float32))
    torch.manual_seed(0)
    model = {"fraud-tx": fraud_tx.build, "fraud-gru": fraud_gru.build}[name]({})
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for part in np.array_split(np.arange(3000), 24):
        logit = world().logit(model, tensors(world(), rows[part]), rows[part])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, target[part])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    model.eval()
    with torch.inference_mode():
        found = world().logit(model, tensors(world(), rows[3000:]), rows[3000:]).numpy()
    positive = target[3000:].numpy() > 0
    ranks = found.argsort().argsort()
    auc = (ranks[positive].mean() - (positive.sum() - 1) / 2) / (~positive).sum()
    assert abs(auc - 0.5) < 0.06


# Why --------------------------------------------------------------------------------------------------------------


def test_each_factor_is_what_asking_without_it_says() -> None:
    rows = np.arange(9000, 9020)
    inputs, lengths = tensors(world(), rows)
    model = module("fraud-tx")
    with torch.inference_mode():
        factors = model.extras(inputs, lengths)["top_factors"].numpy()  # type: ignore[operator]
    full = logits("fraud-tx", rows)

    columns, spans = world().packed(rows[:1])
    without = {n: torch.from_numpy(c[:0]) if n[:9] == "merchant_" and n != "merchant_stats" else torch.from_numpy(c)
               for n, c in columns.items()}  # fmt: skip
    alone = {n: torch.from_numpy(c[-1:]) if n.startswith("card_") else torch.from_numpy(c) for n, c in columns.items()}
    with torch.inference_mode():
        no_merchant = model.logits(without, {"card": torch.from_numpy(spans["card"]), "merchant": torch.tensor([0])})  # type: ignore[operator]
        no_card = model.logits(alone, {"card": torch.tensor([1]), "merchant": torch.from_numpy(spans["merchant"])})  # type: ignore[operator]

    assert factors.shape == (20, len(explain.FACTORS))
    assert factors[0, explain.FACTORS.index("merchant_history")] == pytest.approx(
        full[0] - no_merchant.item(), abs=1e-5
    )
    assert factors[0, explain.FACTORS.index("card_history")] == pytest.approx(full[0] - no_card.item(), abs=1e-5)


def test_a_card_without_history_has_nothing_to_hide() -> None:
    events = world().events
    firsts = np.unique(events.card, return_index=True)[1]
    firsts = firsts[firsts > 5000][:5]

    with torch.inference_mode():
        factors = module("fraud-tx").extras(*tensors(world(), firsts))["top_factors"].numpy()  # type: ignore[operator]

    for name in ("last_event", "last_10_events", "card_history", "amount", "device", "country"):
        assert np.abs(factors[:, explain.FACTORS.index(name)]).max() < 1e-5, name


def test_hiding_leaves_the_inputs_as_they_were() -> None:
    inputs, lengths = tensors(world(), np.arange(9000, 9010))
    before = {name: values.clone() for name, values in inputs.items()}

    with torch.inference_mode():
        module("fraud-tx").extras(inputs, lengths)  # type: ignore[operator]

    assert all(torch.equal(inputs[name], before[name]) for name in before)
