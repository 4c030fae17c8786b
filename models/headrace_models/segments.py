"""Which row each packed event belongs to, as tensors on the device: all that a model needs to know of raggedness.

Made once a batch on the CPU, where lengths are. `padded` makes the same of a fixed size, for kernels recorded once and
replayed: what fills it up belongs to a last row that nobody reads. Legend: B = rows, N = packed events.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Segments(NamedTuple):
    """One ragged axis of one batch."""

    row_N: Tensor
    """int64 [N]: the row of each event."""
    begin_N: Tensor
    """int64 [N]: where the event's row begins."""
    end_B: Tensor
    """int64 [B]: the last event of each row; 0 for a row without any."""
    cu_B1: Tensor
    """int32 [B + 1]: where each row begins, and where the last ends."""
    empty_B: Tensor
    """bool [B]: rows without an event."""

    @property
    def rows(self) -> int:
        return len(self.end_B)

    def to(self, device: torch.device) -> Segments:
        return Segments(*(part.to(device, non_blocking=True) for part in self))


def of(lengths_B: Tensor) -> Segments:
    """The segments of rows of these lengths, on the CPU."""
    ends_B = torch.cumsum(lengths_B, 0)
    begins_B = ends_B - lengths_B
    row_N = torch.repeat_interleave(torch.arange(len(lengths_B)), lengths_B)
    return Segments(
        row_N=row_N,
        begin_N=begins_B[row_N],
        end_B=torch.where(lengths_B > 0, ends_B - 1, 0),
        cu_B1=torch.cat([torch.zeros(1, dtype=torch.int32), ends_B.int()]),
        empty_B=lengths_B == 0,
    )


def padded(lengths_B: Tensor, rows: int, events: int) -> Segments:
    """The same for `rows` rows of `events` events in all: fillers belong to the last row, which must be free.

    To attention that row is empty: nothing is looked up among the fillers. Raises: ValueError when it does not fit.
    """
    taken = int(lengths_B.sum())
    if len(lengths_B) >= rows or taken > events:
        raise ValueError(f"{len(lengths_B)} rows of {taken} events do not fit into {rows} of {events}, one row free")
    real = of(torch.cat([lengths_B, torch.zeros(rows - len(lengths_B), dtype=torch.int64)]))
    fillers = events - taken
    return real._replace(
        row_N=torch.cat([real.row_N, torch.full((fillers,), rows - 1)]),
        begin_N=torch.cat([real.begin_N, torch.full((fillers,), taken)]),
    )
