"""acceptance: what a decision may know, and that a row is a row in any batch."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from headrace_models import acceptance, attempts, simulator, wire
from headrace_models.training.tasks import AcceptanceTask, tensors


@cache
def world() -> AcceptanceTask:
    return AcceptanceTask(simulator.simulate(5, days=60, cards=2000, merchants=120))


@cache
def model() -> acceptance.Acceptance:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return acceptance.build({}).eval()


def answer(rows: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model()(*tensors(world(), rows))["approve"].numpy()


@cache
def retries() -> np.ndarray:
    return np.flatnonzero(world().events.attempt_no > 1)


def test_a_row_is_what_it_is_in_any_batch_and_beside_any_padding() -> None:
    rows = np.concatenate([retries()[:40], np.arange(5000, 5010)])

    together = answer(rows)
    alone = np.concatenate([answer(rows[i : i + 1]) for i in range(len(rows))])

    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(answer(rows[::-1].copy())[::-1] - together).max() < 1e-5


def test_a_decision_knows_the_attempts_before_it_and_not_what_came_of_it() -> None:
    events = world().events
    for row in retries()[100:140]:
        columns, lengths = world().packed(np.array([row]))
        mates = np.flatnonzero(events.attempt_group == events.attempt_group[row])
        before = mates[mates < row]
        assert lengths["attempt"][0] == len(before) == events.attempt_no[row] - 1
        assert columns["payment_ts"][0, 0] == events.ts[before[-1]]
        assert columns["attempt_codes"][:, 0].tolist() == events.outcome[before].tolist()
        assert columns["payment_codes"][0, 5] == events.network_token[before[-1]]  # not what the action made of it


def test_an_action_that_does_not_exist_is_no_action() -> None:
    inputs, lengths = tensors(world(), retries()[:3])
    inputs["candidates"][:, 0] = 99

    with torch.inference_mode():
        assert torch.equal(model()(inputs, lengths)["approve"][:, 0], torch.zeros(3))


def test_a_first_attempt_has_nothing_behind_it() -> None:
    events = world().events
    rows = np.flatnonzero(events.attempt_no == 1)[1000:1020]

    columns, lengths = world().packed(rows)

    assert lengths["attempt"].tolist() == [0] * 20
    assert np.array_equal(columns["payment_ts"][:, 0], events.ts[rows])
    assert np.isfinite(answer(rows)).all()


def test_a_place_without_a_candidate_is_zero_and_disturbs_no_other() -> None:
    inputs, lengths = tensors(world(), retries()[:5])
    with torch.inference_mode():
        full = model()(inputs, lengths)["approve"]
        inputs["candidates"][:, 3:] = -1
        some = model()(inputs, lengths)["approve"]

    assert torch.equal(some[:, 3:], torch.zeros(5, 5))
    assert torch.allclose(some[:, :3], full[:, :3], atol=1e-6)


def test_candidates_may_come_in_any_order() -> None:
    inputs, lengths = tensors(world(), retries()[:5])
    with torch.inference_mode():
        full = model()(inputs, lengths)["approve"]
        inputs["candidates"] = inputs["candidates"].flip(1)
        flipped = model()(inputs, lengths)["approve"]

    assert torch.allclose(flipped.flip(1), full, atol=1e-6)


def test_a_client_sends_what_training_saw() -> None:
    events = world().events
    row = int(retries()[77])
    mates = np.flatnonzero(events.attempt_group == events.attempt_group[row])
    made = [
        {"ts": int(events.ts[i]), "outcome": wire.OUTCOMES[events.outcome[i]], "action": wire.ACTIONS[events.action[i]],
         "advice_code": wire.ADVICE[events.advice[i]]}
        for i in mates[mates < row]
    ]  # fmt: skip
    trained, lengths = world().packed(np.array([row]))
    last = mates[mates < row][-1]
    letters = {wire.letters_code(c): c for c in (*simulator.COUNTRIES, *simulator.CURRENCIES)}
    payment = {
        "ts": made[-1]["ts"], "amount": float(events.amount[row]), "mcc": int(events.mcc[row]),
        "country": letters[int(events.country[row])], "currency": letters[int(events.currency[row])],
        "channel": wire.CHANNELS[events.channel[row]],
        "three_ds": ["", 0, 1][events.three_ds[last]], "network_token": ["", 0, 1][events.network_token[last]],
    }  # fmt: skip

    later = {"ts": payment["ts"] + 1, "outcome": "approved", "action": "now"}

    sent = attempts.columns(payment, [later, *made[::-1]])

    for name, values in sent.items():
        if name == "issuer_bin":
            continue
        expected = trained[name]
        assert np.array_equal(values.reshape(expected.shape), expected), name
        assert values.dtype == expected.dtype, name
    assert len(made) == lengths["attempt"][0]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"channel": "pigeon"}, "channel 'pigeon' is not one of"),
        ({"three_ds": 2}, "three_ds '2' is not 0, 1 or empty"),
        ({"ts": "soon"}, "ts 'soon' is neither"),
    ],
)
def test_what_cannot_be_encoded_is_named(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        attempts.columns({"ts": 1, "amount": 5, **change})


def test_candidates_that_are_none_are_named() -> None:
    with pytest.raises(ValueError, match="action 'pray' is not one of now"):
        attempts.columns({"ts": 1, "amount": 5}, (), ["pray"])
    with pytest.raises(ValueError, match="0 candidate actions"):
        attempts.columns({"ts": 1, "amount": 5}, (), [])
