"""The law of the carried state: the whole history at once, or step after step, is the same score."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_models import fraud_gru, simulator, wire
from headrace_models.history import Timeline

Tensors = dict[str, torch.Tensor]


@cache
def timeline() -> Timeline:
    return Timeline(simulator.simulate(5, days=90, cards=300, merchants=60, fraud_share=0.01))


@cache
def model() -> fraud_gru.FraudGru:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    found = fraud_gru.build({}).eval()
    with torch.no_grad():
        found.decay.normal_()  # states that fade at all speeds
    return found


def nothing(rows: int) -> Tensors:
    return {
        "state_h": torch.zeros(rows, model().hidden + 1),
        "state_ids": torch.zeros(rows, fraud_gru.IDS, dtype=torch.int64),
        "previous_outcome": torch.zeros(rows, 1, dtype=torch.int32),
    }


def columns(rows: list[int]) -> tuple[Tensors, torch.Tensor]:
    packed, lengths = timeline().packed(np.array(rows))
    names = ("card_ts", "card_amount", "card_codes", "card_ids", "merchant_stats")
    return {name: torch.from_numpy(packed[name]) for name in names}, torch.from_numpy(lengths["card"])


def ask(inputs: Tensors, lengths: torch.Tensor) -> Tensors:
    with torch.inference_mode():
        answers: Tensors = model()(inputs, {"card": lengths})
    return answers


def fold(inputs: Tensors, cuts: list[int], *, halve: bool = False) -> Tensors:
    """One history, in the pieces that `cuts` make of it, the state carried from each to the next."""
    state, answers = nothing(1), {}
    edges = [0, *cuts, len(inputs["card_ts"])]
    for begin, end in pairwise(edges):
        piece = {name: values[begin:end] for name, values in inputs.items() if name.startswith("card")}
        answers = ask(piece | state | {"merchant_stats": inputs["merchant_stats"]}, torch.tensor([end - begin]))
        h = answers["state_h"].half().float() if halve else answers["state_h"]
        outcome = inputs["card_codes"][end - 1 : end, 4:5]
        state = {"state_h": h, "state_ids": answers["state_ids"], "previous_outcome": outcome}
    return answers


@st.composite
def histories(draw: st.DrawFn) -> tuple[Tensors, list[int]]:
    row = draw(st.integers(500, len(timeline().events) - 1))
    inputs, lengths = columns([row])
    keep = draw(st.integers(1, int(lengths[0])))
    inputs = {n: v[-keep:].clone() if n.startswith("card") else v for n, v in inputs.items()}
    gaps = draw(st.lists(st.integers(0, 40 * wire.DAY_US), min_size=keep, max_size=keep))
    inputs["card_ts"] = inputs["card_ts"][0] + torch.cumsum(torch.tensor(gaps), 0)
    cuts = draw(st.lists(st.integers(1, keep - 1), unique=True)) if keep > 1 else []
    return inputs, sorted(cuts)


@settings(max_examples=60, deadline=None)
@given(histories())
def test_any_pieces_of_any_history_give_the_score_of_the_whole(history: tuple[Tensors, list[int]]) -> None:
    inputs, cuts = history
    whole = ask(inputs | nothing(1), torch.tensor([len(inputs["card_ts"])]))

    folded = fold(inputs, cuts)

    assert float((whole["p"] - folded["p"]).abs()) < 1e-5
    assert torch.allclose(whole["state_h"], folded["state_h"], atol=1e-5)
    assert torch.equal(whole["state_ids"], folded["state_ids"])


def test_every_prefix_of_a_long_history_one_event_at_a_time() -> None:
    events = timeline().events
    cards, counts = np.unique(events.card, return_counts=True)
    last = int(np.flatnonzero(events.card == cards[np.argmax(counts)])[-1])
    inputs, lengths = columns([last])
    assert lengths[0] == wire.CARD_CAP

    state = nothing(1)
    for end in range(1, wire.CARD_CAP + 1):
        prefix = {n: v[:end] if n.startswith("card") else v for n, v in inputs.items()}
        whole = ask(prefix | nothing(1), torch.tensor([end]))
        one = {n: v[end - 1 : end] for n, v in inputs.items() if n.startswith("card")}
        stepped = ask(one | state | {"merchant_stats": inputs["merchant_stats"]}, torch.tensor([1]))
        assert float((whole["p"] - stepped["p"]).abs()) < 1e-5, end
        state = {
            "state_h": stepped["state_h"], "state_ids": stepped["state_ids"],
            "previous_outcome": inputs["card_codes"][end - 1 : end, 4:5],
        }  # fmt: skip


def test_a_state_kept_in_half_precision_moves_the_score_by_less_than_a_thousandth() -> None:
    worst = 0.0
    for row in range(20_000, 20_020):
        inputs, lengths = columns([row % len(timeline().events)])
        whole = ask(inputs | nothing(1), lengths)
        worst = max(worst, float((whole["p"] - fold(inputs, list(range(1, int(lengths[0]))), halve=True)["p"]).abs()))

    assert worst < 1e-3


def test_rows_with_and_without_a_state_ride_together() -> None:
    rows = [8000, 8001, 8002, 8003]
    inputs, lengths = columns(rows)
    whole = ask(inputs | nothing(4), lengths)
    starts = torch.cumsum(lengths, 0) - lengths
    states, kept = nothing(4), [torch.arange(int(s), int(s + n)) for s, n in zip(starts, lengths, strict=True)]
    for row in (1, 3):
        head = {n: v[kept[row][:-1]] for n, v in inputs.items() if n.startswith("card")}
        before = ask(head | nothing(1) | {"merchant_stats": inputs["merchant_stats"][:1]}, lengths[row : row + 1] - 1)
        states["state_h"][row], states["state_ids"][row] = before["state_h"][0], before["state_ids"][0]
        states["previous_outcome"][row] = inputs["card_codes"][kept[row][-2], 4]
        kept[row] = kept[row][-1:]
    index = torch.cat(kept)
    mixed = {n: v[index] if n.startswith("card") else v for n, v in inputs.items()} | states

    answers = ask(mixed, torch.tensor([len(part) for part in kept]))

    assert torch.allclose(answers["p"], whole["p"], atol=1e-5)


def test_a_history_beyond_the_cap_is_rebuilt_from_its_window_and_differs_by_little() -> None:
    """A state folded over everything has seen more than an unroll of the newest 128: how much that moves a score."""
    events = timeline().events
    cards, counts = np.unique(events.card, return_counts=True)
    index = np.flatnonzero(events.card == cards[np.argmax(counts)])
    assert len(index) > wire.CARD_CAP + 40
    window, lengths = columns([int(index[-1])])
    codes = np.stack([getattr(events, name)[index] for name in ("mcc", "country", "currency", "channel", "outcome")], 1)
    ids = np.stack([events.merchant[index], events.device[index], events.issuer_bin[index]], 1)
    everything = {
        "card_ts": torch.from_numpy(events.ts[index]),
        "card_amount": torch.from_numpy(events.amount[index]),
        "card_codes": torch.from_numpy(codes.astype(np.int32)),
        "card_ids": torch.from_numpy(ids),
        "merchant_stats": window["merchant_stats"],
    }

    rebuilt = ask(window | nothing(1), lengths)
    folded = ask(everything | nothing(1), torch.tensor([len(index)]))

    assert float((rebuilt["p"] - folded["p"]).abs()) < 0.05
    assert folded["state_ids"][0, 1] == len(index)


def test_what_was_seen_is_remembered_across_the_border_of_a_state() -> None:
    """A device that is new to the piece but not to the card is not new: the folded features equal the unrolled ones."""
    inputs, lengths = columns([9000])
    half = int(lengths[0]) // 2
    whole = ask(inputs | nothing(1), lengths)

    assert torch.equal(fold(inputs, [half])["state_ids"], whole["state_ids"])
    assert (int(whole["state_ids"][0, 2]) & (2**64 - 1)).bit_count() <= len(np.unique(inputs["card_ids"][:, 1]))


@pytest.mark.parametrize("gap_us", [0, 1, 400 * wire.DAY_US])
def test_any_gap_is_answered_finitely(gap_us: int) -> None:
    inputs, lengths = columns([9000])
    state = ask(inputs | nothing(1), lengths)
    one = {n: v[-1:] for n, v in inputs.items() if n.startswith("card")} | {"merchant_stats": inputs["merchant_stats"]}
    one["card_ts"] = one["card_ts"] + gap_us

    answers = ask(one | nothing(1) | {"state_h": state["state_h"], "state_ids": state["state_ids"]}, torch.tensor([1]))

    assert torch.isfinite(answers["p"]).all()
    assert torch.isfinite(answers["state_h"]).all()
