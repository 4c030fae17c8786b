"""Raw columns → what a network can learn from. Training and serving call this one function, on any device.

Shapes: N = events of all rows, packed; B = rows. Everything is computed over the packed rows at once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from headrace_models.segments import Segments

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


def card_events(inputs: dict[str, Tensor], rows: Segments) -> EventFeatures:
    """The card's own stream; the last event of each row is the payment in hand."""
    codes_N5 = inputs["card_codes"]
    codes_N6 = torch.cat([codes_N5, torch.zeros_like(codes_N5[:, :1])], 1)  # its labels are nobody's input
    now_B = inputs["card_ts"][rows.end_B]
    return _features(inputs["card_ts"], inputs["card_amount"], codes_N6, inputs["card_ids"], rows, now_B)


def merchant_events(inputs: dict[str, Tensor], rows: Segments, now_B: Tensor) -> EventFeatures:
    """The merchant's stream, as seen at `now_B`, the moments of the payments in hand (microseconds)."""
    ts_N, amount_N, codes_N6, ids_N3 = (inputs[f"merchant_{name}"] for name in ("ts", "amount", "codes", "ids"))
    return _features(ts_N, amount_N, codes_N6, ids_N3, rows, now_B)


def merchant_stats(stats_B8: Tensor) -> Tensor:
    """The merchant's aggregates on comparable scales, [B, 8]: a share of reports matters by its order of magnitude."""
    share_B1 = torch.log(stats_B8[:, 6:7].clamp(1e-5, 1)) / 2 + 2
    return torch.cat([stats_B8[:, :3] / 4, stats_B8[:, 3:4], stats_B8[:, 4:6] / 2, share_B1, stats_B8[:, 7:]], 1)


class FoldedEvents(NamedTuple):
    """The card's stream as a carried state allows to see it."""

    features: EventFeatures
    gap_h: Tensor
    """float32 [N]: hours since the event before, across the border of the state."""
    mean_log_amount: Tensor
    """float32 [N]: mean of log amounts up to and including each event."""


def folded_events(inputs: dict[str, Tensor], rows: Segments, mean_B: Tensor, ids_B5: Tensor) -> FoldedEvents:
    """The card's events after a state: `mean_B` of its log amounts, `ids_B5` its last moment, count and bitmaps."""
    ts_N, codes_N5, ids_N3 = inputs["card_ts"], inputs["card_codes"], inputs["card_ids"]
    row_N = rows.row_N
    first_N = rows.begin_N == torch.arange(len(row_N), device=row_N.device)
    log_amount_N = torch.log1p(inputs["card_amount"].clamp(0, 1e7))
    ids_B5 = _of_a_history(ids_B5)
    count_N, last_N = ids_B5[row_N, 1], ids_B5[row_N, 0]
    gap_us_N = _gap_us(ts_N, row_N) + torch.where(first_N & (count_N > 0), ts_N - last_N, 0)
    gap_h_N = gap_us_N.clamp(min=0).float() / HOUR_US
    mean_N = _mean_so_far(log_amount_N, rows, mean_B, ids_B5[:, 1])
    previous_N = torch.roll(codes_N5[:, 4], 1)
    previous_N = torch.where(first_N, inputs["previous_outcome"][row_N, 0], previous_N)
    bit_3N = _seen_bits(codes_N5, ids_N3)
    unseen_3N = _first_seen(bit_3N, row_N) * (1 - (ids_B5[row_N, 2:].T >> bit_3N & 1).float())
    numerics = torch.stack(
        [
            log_amount_N / 4, log_amount_N - mean_N, torch.log1p(gap_h_N * 3600) / 8, *_hour(ts_N), _weekday(ts_N),
            unseen_3N[0], unseen_3N[2], unseen_3N[1],
        ], 1,
    )  # fmt: skip
    codes_N6 = torch.cat([codes_N5[:, :4], previous_N[:, None], torch.zeros_like(codes_N5[:, :1])], 1)
    found = EventFeatures(codes_N6.long(), ids_N3[:, 2] % ID_BUCKETS, numerics, gap_h_N)
    return FoldedEvents(found, gap_h_N, mean_N)


def folded_ids(inputs: dict[str, Tensor], rows: Segments, ids_B5: Tensor) -> Tensor:
    """The integers of the state after these events, int64 [B, 5]."""
    row_N, ids_B5 = rows.row_N, _of_a_history(ids_B5)
    count_B = ids_B5[:, 1] + rows.cu_B1.diff()
    bit_3N = _seen_bits(inputs["card_codes"], inputs["card_ids"])
    once_3N = _first_seen(bit_3N, row_N).long() << bit_3N
    bitmap_3B = ids_B5[:, 2:].T
    now_3B = torch.zeros_like(bitmap_3B).index_add(1, row_N, once_3N)  # each bit once: adding is or-ing
    return torch.stack([inputs["card_ts"][rows.end_B], count_B, *(bitmap_3B | now_3B)], 1)


def _of_a_history(ids_B5: Tensor) -> Tensor:
    """The integers of a state; all 0 where it has seen no event."""
    return torch.where(ids_B5[:, 1:2] > 0, ids_B5, 0)


def _seen_bits(codes_N5: Tensor, ids_N3: Tensor) -> Tensor:
    """The bits of 64-bit maps that stand for each event's device, country and merchant, [3, N]."""
    return torch.stack([ids_N3[:, 1], codes_N5[:, 1].long() * 2654435761 >> 16, ids_N3[:, 0]]) & 63


def _features(
    ts_N: Tensor, amount_N: Tensor, codes_N6: Tensor, ids_N3: Tensor, rows: Segments, now_B: Tensor
) -> EventFeatures:
    row_N = rows.row_N
    amount_N = amount_N.clamp(0, 1e7)
    log_amount_N = torch.log1p(amount_N)
    gap_s_N = _gap_us(ts_N, row_N).clamp(min=0).float() / 1e6
    numerics = [
        log_amount_N / 4,
        log_amount_N - _mean_so_far(log_amount_N, rows),
        torch.log1p(gap_s_N) / 8,
        *_hour(ts_N),
        _weekday(ts_N),
        *_first_seen(torch.stack([ids_N3[:, 1], ids_N3[:, 0], codes_N6[:, 1].long()]), row_N),
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


def _hour(ts_N: Tensor) -> tuple[Tensor, Tensor]:
    """Sine and cosine of the time of day."""
    angle_N = (ts_N % (24 * HOUR_US)).float() * (2 * math.pi / (24 * HOUR_US))
    return torch.sin(angle_N), torch.cos(angle_N)


def _weekday(ts_N: Tensor) -> Tensor:
    """0 for Monday to 6/7 for Sunday; 1 January 1970 was a Thursday."""
    return ((ts_N // (24 * HOUR_US) + 3) % 7).float() / 7


def _mean_so_far(
    values_N: Tensor, rows: Segments, mean_B: Tensor | None = None, count_B: Tensor | None = None
) -> Tensor:
    """Mean of the row's values up to and including each event, after `count_B` earlier ones with `mean_B`.

    In double: a row's result must not depend on which rows were packed in front of it.
    """
    total_N = torch.cumsum(values_N.double(), 0)
    begin_N, row_N = rows.begin_N, rows.row_N
    before_N = torch.where(begin_N > 0, total_N[(begin_N - 1).clamp(min=0)], 0.0)
    count_N = torch.arange(len(values_N), device=values_N.device) - begin_N + 1
    sum_N = total_N - before_N
    if mean_B is not None and count_B is not None:
        sum_N = sum_N + (mean_B.double() * count_B)[row_N]
        count_N = count_N + count_B[row_N]
    return (sum_N / count_N).float()


def _first_seen(ids_KN: Tensor, row_N: Tensor) -> Tensor:
    """1.0 where an id appears for the first time in its row, else 0.0: for each of K kinds of ids by itself."""
    key_KN = ids_KN * 6364136223846793005 + row_N * 1442695040888963407  # wraps; a collision is one in 2^64
    sorted_KN, order_KN = torch.sort(key_KN, stable=True)
    first_KN = torch.ones(key_KN.shape, device=ids_KN.device)
    first_KN[:, 1:] = (sorted_KN[:, 1:] != sorted_KN[:, :-1]).float()
    return torch.empty_like(first_KN).scatter_(1, order_KN, first_KN)
