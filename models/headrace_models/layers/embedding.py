"""One event as a vector: embedded codes beside scaled numbers, projected to the model's width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from headrace_models.features import ID_BUCKETS, NUMERICS, EventFeatures

CODE_TABLES = ((512, 12), (256, 8), (64, 4), (16, 4), (16, 6), (4, 3))
"""(entries, width) for mcc, country, currency, channel, outcome, label. A code beyond its table wraps round."""
BIN_WIDTH = 8


class EventEmbedding(nn.Module):
    """EventFeatures → [N, width]. Shared by the card's and the merchant's stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.entries: Tensor
        self.register_buffer("entries", torch.tensor([entries for entries, _ in CODE_TABLES]), persistent=False)
        self.codes = nn.ModuleList(nn.Embedding(entries, size) for entries, size in CODE_TABLES)
        self.bins = nn.Embedding(ID_BUCKETS, BIN_WIDTH)
        joined = sum(size for _, size in CODE_TABLES) + BIN_WIDTH + NUMERICS
        self.project = nn.Linear(joined, width)

    def forward(self, events: EventFeatures) -> Tensor:
        places = (events.codes % self.entries).unbind(1)
        parts = [table(place_N) for table, place_N in zip(self.codes, places, strict=True)]
        out: Tensor = self.project(torch.cat([*parts, self.bins(events.bins), events.numerics], 1))
        return out
