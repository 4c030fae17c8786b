"""Raw columns → what a network can learn from. Training and serving call this one function, on any device.

Shapes: N = events of all rows, packed; B = rows. Everything is computed over the packed rows at once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

HOUR_US = 3_600_000_000
ID_BUCKETS = 4096
"""Buckets for the ids that are embedded (devices, issuer ranges): hashing keeps tables small and unknowns harmless."""
NUMERICS = 9
"""log amount, amount against the mean so far, log time gap, hour (sin, cos), weekday, new device, merchant, country."""


class EventFeatures(NamedTuple):
    """One stream's events as the network reads them."""

    codes: Tensor
    """int64 [N, 6]: mcc, country, currency, channel, outcome, label."""
    bins: Tensor
    """int64 [N]: bucket of the issuer's number range."""
    numerics: Tensor
    """float32 [N, NUMERICS]."""
    age_h: Tensor
    """float32 [N]: hours before the payment in hand."""


def card_events(ts_N: Tensor, amount_N: Tensor, codes_N5: Tensor, ids_N3: Tensor, lengths_B: Tensor) -> EventFeatures:
    """The card's own stream; the last event of each row is the payment in hand."""
    row_N = rows_of(lengths_B).to(ts_N.device)
    ends_B = torch.cumsum(lengths_B, 0).to(ts_N.device) - 1
    unlabelled = torch.zeros_like(codes_N5[:, :1])
    return _features(ts_N, amount_N, torch.cat([codes_N5, unlabelled], 1), ids_N3, row_N, ts_N[ends_B])


def merchant_events(
    ts_N: Tensor, amount_N: Tensor, codes_N6: Tensor, ids_N3: Tensor, lengths_B: Tensor, now_B: Tensor
) -> EventFeatures:
    """The merchant's stream, as seen at `now_B`, the moments of the payments in hand (microseconds)."""
    return _features(ts_N, amount_N, codes_N6, ids_N3, rows_of(lengths_B).to(ts_N.device), now_B)


def rows_of(lengths_B: Tensor) -> Tensor:
    """The row each packed event belongs to, int64 [N]."""
    return torch.repeat_interleave(torch.arange(len(lengths_B)), lengths_B)


def _features(
    ts_N: Tensor, amount_N: Tensor, codes_N6: Tensor, ids_N3: Tensor, row_N: Tensor, now_B: Tensor
) -> EventFeatures:
    amount_N = amount_N.clamp(0, 1e7)
    log_amount_N = torch.log1p(amount_N)
    gap_s_N = _gap_us(ts_N, row_N).float() / 1e6
    hour_N = (ts_N % (24 * HOUR_US)).float() * (2 * math.pi / (24 * HOUR_US))
    weekday_N = ((ts_N // (24 * HOUR_US)) + 3) % 7  # 1 January 1970 was a Thursday
    numerics = [
        log_amount_N / 4,
        log_amount_N - _mean_so_far(log_amount_N, row_N),
        torch.log1p(gap_s_N) / 8,
        torch.sin(hour_N),
        torch.cos(hour_N),
        weekday_N.float() / 7,
        _first_seen(ids_N3[:, 1], row_N),
        _first_seen(ids_N3[:, 0], row_N),
        _first_seen(codes_N6[:, 1].long(), row_N),
    ]
    return EventFeatures(
        codes=codes_N6.long(),
        bins=ids_N3[:, 2] % ID_BUCKETS,
        numerics=torch.stack(numerics, 1),
        # An event dated a day after the payment in hand would otherwise weigh infinitely much.
        age_h=(now_B[row_N] - ts_N).clamp(min=0).float() / HOUR_US,
    )


def _gap_us(ts_N: Tensor, row_N: Tensor) -> Tensor:
    """Microseconds since the event before it in the row; 0 for the first."""
    gap_N = torch.zeros_like(ts_N)
    gap_N[1:] = torch.where(row_N[1:] == row_N[:-1], ts_N[1:] - ts_N[:-1], 0)
    return gap_N


def _mean_so_far(values_N: Tensor, row_N: Tensor) -> Tensor:
    """Mean of the row's values up to and including each event.

    In double: a row's result must not depend on which rows were packed in front of it.
    """
    total_N = torch.cumsum(values_N.double(), 0)
    begin_N = torch.searchsorted(row_N, row_N)
    before_N = torch.where(begin_N > 0, total_N[(begin_N - 1).clamp(min=0)], 0.0)
    count_N = torch.arange(len(values_N), device=values_N.device) - begin_N + 1
    return ((total_N - before_N) / count_N).float()


def _first_seen(ids_N: Tensor, row_N: Tensor) -> Tensor:
    """1.0 where an id appears for the first time in its row, else 0.0."""
    key_N = ids_N * 6364136223846793005 + row_N * 1442695040888963407  # wraps; a collision is one in 2^64
    _, order = torch.sort(key_N, stable=True)
    sorted_N = key_N[order]
    first = torch.ones(len(key_N), device=ids_N.device)
    first[1:] = (sorted_N[1:] != sorted_N[:-1]).float()
    return torch.empty_like(first).scatter_(0, order, first)
