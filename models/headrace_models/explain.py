"""Why a payment got its score: what each part of what the model saw contributes, by hiding it and asking again.

Occlusion: events are left out of the histories, a property of the payment is set to what the card's event before had,
and all these variants of all rows that ask are one packed batch more. Not free, so only for the rows that ask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from headrace_models import segments

Inputs = dict[str, Tensor]
Lengths = dict[str, Tensor]
Variant = tuple[Inputs, Lengths]
Logits = Callable[[Inputs, Lengths], Tensor]

QUIET_MERCHANT: Final = (0.0, 0.0, 0.0, 0.1, 0.0, 0.0, 0.002, 0.0)
"""`wire.MERCHANT_STATS` of one of whom nothing is known."""
FACTORS: Final = (
    "last_event", "last_3_events", "last_10_events", "card_history", "merchant_history", "merchant_stats",
    "amount", "device", "merchant", "mcc", "country", "channel",
)  # fmt: skip


def top_factors(logits: Logits, inputs: Inputs, lengths: Lengths) -> Tensor:
    """By how much hiding each of FACTORS lowers the log odds, float32 [B, FACTORS]."""
    variants = [(inputs, lengths), *_variants(inputs, lengths)]
    joined = {name: torch.cat([variant[0][name] for variant in variants]) for name in inputs}
    spans = {name: torch.cat([variant[1][name] for variant in variants]) for name in lengths}
    found = logits(joined, spans).reshape(len(variants), -1)
    return (found[:1] - found[1:]).T.contiguous()


def _variants(inputs: Inputs, lengths: Lengths) -> list[Variant]:
    """What is asked again, in the order of FACTORS."""
    before = (("card_ids", 1), ("card_ids", 0), ("card_codes", 0), ("card_codes", 1), ("card_codes", 3))
    return [
        *(_without_events(inputs, lengths, last) for last in (1, 3, 10, None)),
        _without_merchant(inputs, lengths),
        _with_quiet_merchant(inputs, lengths),
        _with_usual_amount(inputs, lengths),
        *(_as_before(inputs, lengths, name, place) for name, place in before),
    ]


def _without_events(inputs: Inputs, lengths: Lengths, last: int | None) -> Variant:
    """The card's newest `last` events before the payment in hand were never there; None: none of them was."""
    length_B = lengths["card"]
    dropped_B = length_B - 1 if last is None else torch.minimum(length_B - 1, torch.full_like(length_B, last))
    row_N = segments.of(length_B).row_N
    from_end_N = torch.cumsum(length_B, 0)[row_N] - 1 - torch.arange(len(row_N))
    keep_N = ((from_end_N == 0) | (from_end_N > dropped_B[row_N])).to(inputs["card_ts"].device)
    kept = {name: values[keep_N] if name.startswith("card_") else values for name, values in inputs.items()}
    return kept, lengths | {"card": length_B - dropped_B}


def _without_merchant(inputs: Inputs, lengths: Lengths) -> Variant:
    stream = ("merchant_ts", "merchant_amount", "merchant_codes", "merchant_ids")
    nothing = {name: inputs[name][:0] for name in stream}
    return inputs | nothing, lengths | {"merchant": torch.zeros_like(lengths["merchant"])}


def _with_quiet_merchant(inputs: Inputs, lengths: Lengths) -> Variant:
    stats_B8 = inputs["merchant_stats"]
    return inputs | {"merchant_stats": stats_B8.new_tensor(QUIET_MERCHANT).expand_as(stats_B8)}, lengths


def _with_usual_amount(inputs: Inputs, lengths: Lengths) -> Variant:
    """The payment in hand is of the card's usual amount: the geometric mean of those before, or itself."""
    amount_N = inputs["card_amount"].clone()
    row_N, ends_B = _rows_and_ends(lengths["card"], amount_N)
    before_B = (lengths["card"] - 1).to(amount_N.device)
    sums_B = torch.zeros_like(amount_N[ends_B]).index_add(0, row_N, torch.log1p(amount_N)) - torch.log1p(
        amount_N[ends_B]
    )
    usual_B = torch.expm1(sums_B / before_B.clamp(min=1))
    amount_N[ends_B] = torch.where(before_B > 0, usual_B, amount_N[ends_B])
    return inputs | {"card_amount": amount_N}, lengths


def _as_before(inputs: Inputs, lengths: Lengths, name: str, place: int) -> Variant:
    """One property of the payment in hand is what it was at the event before; without one, it stays."""
    values = inputs[name].clone()
    _, ends_B = _rows_and_ends(lengths["card"], values)
    before_B = torch.where((lengths["card"] > 1).to(values.device), ends_B - 1, ends_B)
    values[ends_B, place] = values[before_B, place]
    return inputs | {name: values}, lengths


def _rows_and_ends(length_B: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    return segments.of(length_B).row_N.to(like.device), (torch.cumsum(length_B, 0) - 1).to(like.device)
