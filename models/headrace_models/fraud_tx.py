"""fraud-tx: a causal transformer over a card's payments, beside a pooled reading of the merchant's.

The card's history shows what is unlike the card; the merchant's shows what no single card can: testing bursts,
compromised shops. Legend: B = rows, N = packed events, L = a bucket's length, D = width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headrace_models import collate, features
from headrace_models.calibration import SCORES, to_probability, to_score
from headrace_models.features import EventFeatures
from headrace_models.layers.attention import Block
from headrace_models.layers.embedding import EventEmbedding
from headrace_models.vocabulary import vocabulary

__all__ = ["FraudTx", "FraudTxConfig", "build", "vocabulary"]

HORIZONS_H = (0.25, 3.0, 24.0)
"""The merchant's events are pooled three times, each time fading over another horizon."""
STATS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FraudTxConfig:
    """Size of the network. The defaults are XS, made for a CPU."""

    width: int = 64
    heads: int = 4
    layers: int = 2
    hidden: int = 256
    merchant_width: int = 48


def build(config: dict[str, Any]) -> FraudTx:
    """The factory that spec.yaml names. Raises: TypeError for an unknown key."""
    return FraudTx(FraudTxConfig(**config))


class FraudTx(nn.Module):
    """Wire columns in, calibrated probability and 0–99 score out."""

    def __init__(self, config: FraudTxConfig) -> None:
        super().__init__()
        self.embed = EventEmbedding(config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.hidden) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.merchant = nn.Sequential(
            nn.Linear(config.width, config.merchant_width),
            nn.GELU(),
            nn.Linear(config.merchant_width, config.merchant_width),
        )
        pooled = len(HORIZONS_H) * (config.merchant_width + 1)
        self.head = nn.Sequential(
            nn.Linear(config.width + pooled + STATS, 128), nn.GELU(), nn.Linear(128, 32), nn.GELU(), nn.Linear(32, 1)
        )
        self.calibration: Tensor
        self.score_edges: Tensor
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))
        self.register_buffer("score_edges", torch.linspace(0, 1, SCORES)[1:].clone())

    def forward(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> dict[str, Tensor]:
        p_B = to_probability(self.logits(inputs, lengths), self.calibration)
        return {"p": p_B[:, None], "score": to_score(p_B, self.score_edges)[:, None]}

    def logits(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> Tensor:
        """Uncalibrated, [B]: what training optimises."""
        card_B = self._card(inputs, lengths["card"])
        ends_B = torch.cumsum(lengths["card"], 0).to(inputs["card_ts"].device) - 1
        merchant_B = self._merchant(inputs, lengths["merchant"], inputs["card_ts"][ends_B])
        out: Tensor = self.head(torch.cat([card_B, merchant_B, inputs["merchant_stats"]], 1))
        return out[:, 0]

    def padded_tokens(self, lengths: dict[str, Tensor]) -> int:
        """Events computed for a batch: the card's padded to their buckets, the merchant's as they are."""
        return collate.padded_tokens(lengths["card"]) + int(lengths["merchant"].sum())

    def _card(self, inputs: dict[str, Tensor], lengths_B: Tensor) -> Tensor:
        """The last event of each row after attention over the row, [B, D], computed a length bucket at a time."""
        events = features.card_events(
            inputs["card_ts"], inputs["card_amount"], inputs["card_codes"], inputs["card_ids"], lengths_B
        )
        x_ND = self.embed(events)
        # Time as a position: a minute matters near the payment in hand, a week far from it.
        position_N = -8 * torch.log1p(events.age_h / 8)
        out_BD = x_ND.new_zeros(len(lengths_B), x_ND.shape[1])
        for rows, length in collate.by_bucket(lengths_B):
            index, _ = collate.gather_index(lengths_B, rows, length)
            index, place = index.to(x_ND.device), rows.to(x_ND.device)
            x_BLD = x_ND[index]
            for block in self.blocks:
                x_BLD = block(x_BLD, position_N[index])
            last_B = (lengths_B[rows] - 1).to(x_ND.device)
            out_BD[place] = x_BLD[torch.arange(len(rows), device=x_ND.device), last_B]
        normed: Tensor = self.norm(out_BD)
        return normed

    def _merchant(self, inputs: dict[str, Tensor], lengths_B: Tensor, now_B: Tensor) -> Tensor:
        """Fading means of the merchant's events and how many there were, [B, horizons · (M + 1)]. No padding at all."""
        events: EventFeatures = features.merchant_events(
            inputs["merchant_ts"],
            inputs["merchant_amount"],
            inputs["merchant_codes"],
            inputs["merchant_ids"],
            lengths_B,
            now_B,
        )
        x_NM = self.merchant(self.embed(events))
        row_N = features.rows_of(lengths_B).to(x_NM.device)
        pooled = []
        for horizon_h in HORIZONS_H:
            weight_N1 = torch.exp(-events.age_h / horizon_h)[:, None]
            weight_B1 = x_NM.new_zeros(len(lengths_B), 1).index_add(0, row_N, weight_N1)
            sum_BM = x_NM.new_zeros(len(lengths_B), x_NM.shape[1]).index_add(0, row_N, weight_N1 * x_NM)
            pooled += [sum_BM / (weight_B1 + 1), torch.log1p(weight_B1)]
        return torch.cat(pooled, 1)
