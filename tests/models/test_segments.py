"""Every way through the network gives what the plain one does: bucketed, packed, of a fixed size, in half precision."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_models import fraud_tx, segments, simulator, spec
from headrace_models.training.evaluate import REPOSITORY
from headrace_models.training.tasks import FraudTask, Tensors, tensors

SHIPPED = REPOSITORY / "fraud-tx" / "1"


@cache
def model() -> fraud_tx.FraudTx:
    torch.set_num_threads(1)
    found = spec.load_module(spec.load_spec(SHIPPED), SHIPPED)
    assert isinstance(found, fraud_tx.FraudTx)
    return found


@cache
def batch() -> Tensors:
    task = FraudTask(simulator.simulate(5, days=90, cards=900, merchants=120, fraud_share=0.01))
    fraud = np.flatnonzero(task.target(np.arange(len(task.events))) > 0)
    rows = np.concatenate([fraud[-20:], np.arange(3), np.arange(20_000, 20_025)])
    return tensors(task, rows)


def plain() -> np.ndarray:
    """In fp32, by buckets, on the CPU: what training optimised."""
    with torch.inference_mode():
        return model()(*batch())["p"][:, 0].numpy()


def recorded(rows: int, events: int, network: fraud_tx.FraudTx, filler: int) -> np.ndarray:
    """As a recorded pass gets it: a fixed size, and whatever was there before where nothing is."""
    inputs, lengths = batch()
    sized = {}
    for name, values in inputs.items():
        size = rows if name == "merchant_stats" else events
        blank = torch.full((size, *values.shape[1:]), filler).to(values.dtype)
        blank[: len(values)] = values
        sized[name] = blank
    parts = {name: segments.padded(length, rows, events) for name, length in lengths.items()}
    with torch.inference_mode():
        return network.recorded(sized, parts)["p"][: len(lengths["card"]), 0].float().numpy()


def test_packed_rows_give_what_padded_ones_do() -> None:
    inputs, lengths = batch()
    with torch.inference_mode():
        rows = model()._rows(inputs, lengths)
        packed = torch.sigmoid(model()._logits(inputs, rows, None))
        padded = torch.sigmoid(model()._logits(inputs, rows, lengths["card"]))

    assert torch.allclose(packed, padded, atol=1e-5)


@pytest.mark.parametrize("filler", [0, 7])
@pytest.mark.parametrize(("rows", "events"), [(49, 4096), (64, 4096), (128, 8192)])
def test_a_batch_of_a_fixed_size_gives_what_it_gives_as_it_is(rows: int, events: int, filler: int) -> None:
    assert np.abs(recorded(rows, events, model(), filler) - plain()).max() < 1e-5


def test_half_precision_moves_a_probability_by_less_than_five_thousandths() -> None:
    network = spec.load_module(spec.load_spec(SHIPPED), SHIPPED)
    assert isinstance(network, fraud_tx.FraudTx)
    network.on_cuda()

    assert np.abs(recorded(64, 4096, network, 0) - plain()).max() < 5e-3


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(0, 5), st.integers(0, 20))
def test_segments_say_where_every_event_belongs(lengths: list[int], more_rows: int, more_events: int) -> None:
    spans = torch.tensor(lengths)
    exact = segments.of(spans)
    padded = segments.padded(spans, len(lengths) + 1 + more_rows, int(spans.sum()) + more_events)

    assert torch.bincount(exact.row_N, minlength=len(lengths)).tolist() == lengths
    assert exact.cu_B1.diff().tolist() == lengths
    for row, length in enumerate(lengths):
        if length:
            assert exact.row_N[exact.end_B[row]] == row
    for short, long in zip(exact, padded, strict=True):
        assert torch.equal(long[: len(short)], short)
    assert (padded.row_N[len(exact.row_N) :] == padded.rows - 1).all()
    assert padded.empty_B[len(lengths) :].all()


def test_a_batch_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="2 rows of 5 events do not fit into 2 of 8"):
        segments.padded(torch.tensor([2, 3]), 2, 8)
    with pytest.raises(ValueError, match="do not fit into 4 of 4"):
        segments.padded(torch.tensor([2, 3]), 4, 4)
