"""The benchmark's model: a two-layer encoder of width 64 over feature vectors, mean-pooled to one number.

The same file serves w1-encoder and w2-ragged; `benchmarks/make_repository.py` copies it from the first to the second.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from headrace_models import collate

FEATURES, WIDTH, HEADS, HIDDEN, LAYERS = 16, 64, 4, 128, 2


class Encoder(nn.Module):
    """[B, 32, 16] or packed [N, 16] → score [B, 1]."""

    def __init__(self, *, ragged: bool) -> None:
        super().__init__()
        self.ragged = ragged
        self.project = nn.Linear(FEATURES, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> dict[str, Tensor]:
        # Load generators send random bytes as floats: NaN and 1e38 among them must still get a finite answer.
        events = torch.nan_to_num(inputs["events"]).clamp(-10, 10)
        if not self.ragged:
            return {"score": self.head(self.encoder(self.project(events)).mean(1))}
        x_ND, lengths_B = self.project(events), lengths["events"]
        pooled_BD = x_ND.new_zeros(len(lengths_B), WIDTH)
        for rows, length in collate.by_bucket(lengths_B):
            index, mask = collate.gather_index(lengths_B, rows, length)
            hidden = self.encoder(x_ND[index], src_key_padding_mask=~mask)
            weights = mask.to(hidden.dtype)[..., None]
            pooled_BD[rows] = (hidden * weights).sum(1) / weights.sum(1)
        return {"score": self.head(pooled_BD)}

    def padded_tokens(self, lengths: dict[str, Tensor]) -> int:
        return collate.padded_tokens(lengths["events"]) if self.ragged else 0


def build(config: dict[str, bool]) -> Encoder:
    torch.manual_seed(0)
    return Encoder(ragged=config["ragged"])
