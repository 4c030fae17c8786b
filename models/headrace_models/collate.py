"""Packed rows ⇄ padded buckets. The one place that knows how ragged rows become rectangles.

A bucket holds rows of similar length, padded to the longest of them; computing by bucket costs a fraction of padding
all rows to the cap. Shapes: N = events of all rows, B = rows, L = a bucket's length.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

BUCKETS = (12, 24, 40, 64, 96, 128)
"""Edges: a row goes into the first bucket it fits. More of them pad less and launch more; these measured best."""


def by_bucket(lengths_B: Tensor, buckets: Sequence[int] = BUCKETS) -> Iterator[tuple[Tensor, int]]:
    """Groups of rows and the length each is padded to, its longest row's; rows of length 0 are in no group.

    Raises: ValueError for a row longer than the last bucket.
    """
    for rows, longest in _grouped(lengths_B, buckets):
        yield torch.tensor(rows), longest


def _grouped(lengths_B: Tensor, buckets: Sequence[int]) -> Iterator[tuple[list[int], int]]:
    """As plain numbers: for as many rows as a batch has, a third of what tensor operations cost."""
    lengths = lengths_B.tolist()
    if lengths and max(lengths) > buckets[-1]:
        raise ValueError(f"a row of {max(lengths)} events does not fit the largest bucket, {buckets[-1]}")
    groups: list[list[int]] = [[] for _ in buckets]
    for row, length in enumerate(lengths):
        if length:
            groups[bisect_left(buckets, length)].append(row)
    return ((rows, max(lengths[row] for row in rows)) for rows in groups if rows)


def gather_index(lengths_B: Tensor, rows: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """For each place of a padded bucket, filled from the left: the packed event it holds, and whether it is real.

    Padding repeats an event of the batch, so that it is finite: mask it, or stand it where nothing looks.
    """
    starts_B = torch.cumsum(lengths_B, 0) - lengths_B
    place_L = torch.arange(length)
    mask = place_L[None, :] < lengths_B[rows, None]
    index = torch.where(mask, starts_B[rows, None] + place_L[None, :], 0)
    return index, mask


def padded_tokens(lengths_B: Tensor, buckets: Sequence[int] = BUCKETS) -> int:
    """How many events get computed, padding included."""
    return sum(len(rows) * longest for rows, longest in _grouped(lengths_B, buckets))
