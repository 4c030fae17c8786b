"""fraud-tx: a causal transformer over a card's payments, beside a pooled reading of the merchant's.

The card's history shows what is unlike the card; the merchant's shows what no single card can: testing bursts,
compromised shops. Legend: B = rows, N = packed events, L = a bucket's length, D = width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from headrace_models import collate, explain, features
from headrace_models.calibration import Calibration
from headrace_models.features import EventFeatures
from headrace_models.layers.attention import Block, angles
from headrace_models.layers.embedding import EventEmbedding
from headrace_models.vocabulary import of_events as vocabulary

__all__ = ["FraudTx", "FraudTxConfig", "build", "vocabulary"]

HORIZONS_H = (0.25, 3.0, 24.0, 240.0)
"""The merchant's events are pooled several times, each time fading over another horizon."""
STATS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FraudTxConfig:
    """Size of the network. The defaults are made for a CPU."""

    width: int = 64
    heads: int = 2
    layers: int = 2
    hidden: int = 256
    merchant_width: int = 48
    dropout: float = 0.5
    """Of what the head reads, in training."""


def build(config: dict[str, Any]) -> FraudTx:
    """The factory that spec.yaml names. Raises: TypeError for an unknown key."""
    return FraudTx(FraudTxConfig(**config))


class FraudTx(nn.Module):
    """Wire columns in, calibrated probability and 0–99 score out."""

    def __init__(self, config: FraudTxConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.embed = EventEmbedding(config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.hidden) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.merchant = nn.Sequential(
            nn.Linear(config.width, config.merchant_width),
            nn.GELU(),
            nn.Linear(config.merchant_width, config.merchant_width),
        )
        pooled = len(HORIZONS_H) * (config.merchant_width + 1)
        self.no_history = nn.Parameter(torch.zeros(pooled))
        # The aggregates get a way of their own: beside two hundred numbers of the streams they would drown.
        self.streams = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(config.width + pooled, 96), nn.GELU(), nn.Dropout(config.dropout)
        )
        self.stats = nn.Sequential(nn.Linear(STATS, 32), nn.GELU())
        self.head = nn.Sequential(nn.Linear(96 + 32, 32), nn.GELU(), nn.Linear(32, 1))
        self.calibration = Calibration()

    def forward(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> dict[str, Tensor]:
        logit_B = self.logits(inputs, lengths)
        p_B, score_B = self.calibration(logit_B, lengths["card"].to(logit_B.device))
        return {"p": p_B[:, None], "score": score_B[:, None]}

    def extras(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is only computed for the rows that ask for it."""
        return {"top_factors": explain.top_factors(self.logits, inputs, lengths)}

    def logits(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> Tensor:
        """Uncalibrated, [B]: what training optimises."""
        card_B = self._card(inputs, lengths["card"])
        ends_B = torch.cumsum(lengths["card"], 0).to(inputs["card_ts"].device) - 1
        merchant_B = self._merchant(inputs, lengths["merchant"], inputs["card_ts"][ends_B])
        streams_BD = self.streams(torch.cat([card_B, merchant_B], 1))
        stats_BD = self.stats(features.merchant_stats(inputs["merchant_stats"]))
        out: Tensor = self.head(torch.cat([streams_BD, stats_BD], 1))
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
            x_BLD = collate.pad(x_ND, lengths_B, rows, length)
            position_BL = collate.pad(position_N, lengths_B, rows, length)
            out_BD[rows.to(x_ND.device)] = self._encode(x_BLD, position_BL, (lengths_B[rows] - 1).to(x_ND.device))
        normed: Tensor = self.norm(out_BD)
        return normed

    def _encode(self, x_BLD: Tensor, position_BL: Tensor, last_B: Tensor) -> Tensor:
        """Only the payment in hand is scored, so the last block computes that one event of each row."""
        *blocks, final = cast("list[Block]", list(self.blocks))
        turn = angles(position_BL, x_BLD.shape[-1] // self.heads)
        for block in blocks:
            x_BLD = block(x_BLD, turn)
        out_BD: Tensor = final.last(x_BLD, turn, last_B)
        return out_BD

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
        empty_B1 = (lengths_B == 0).to(x_NM.device)[:, None]
        return torch.where(empty_B1, self.no_history, torch.cat(pooled, 1))
