"""fraud-tx: a causal transformer over a card's payments, beside a pooled reading of the merchant's.

The card's history shows what is unlike the card; the merchant's shows what no single card can: testing bursts,
compromised shops. Legend: B = rows, N = packed events, L = a bucket's length, D = width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from headrace_models import collate, explain, features, segments, wire
from headrace_models.calibration import Calibration
from headrace_models.layers.attention import Block, angles
from headrace_models.layers.embedding import EventEmbedding
from headrace_models.segments import Segments
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
        rows = self._rows(inputs, lengths)
        return self._told(self._logits(inputs, rows, lengths["card"]), rows["card"])

    def recorded(self, inputs: dict[str, Tensor], rows: dict[str, Segments]) -> dict[str, Tensor]:
        """`forward` for a batch of a fixed size (`segments.padded`): nothing in it waits for the host."""
        return self._told(self._logits(inputs, rows, None), rows["card"])

    def extras(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is only computed for the rows that ask for it."""
        return {"top_factors": explain.top_factors(self.logits, inputs, lengths)}

    def logits(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> Tensor:
        """Uncalibrated, [B]: what training optimises."""
        return self._logits(inputs, self._rows(inputs, lengths), lengths["card"])

    def padded_tokens(self, lengths: dict[str, Tensor]) -> int:
        """Events computed for a batch: the card's padded to their buckets on a CPU, the merchant's as they are."""
        card = int(lengths["card"].sum()) if self.norm.weight.is_cuda else collate.padded_tokens(lengths["card"])
        return card + int(lengths["merchant"].sum())

    def on_cuda(self) -> None:
        """Called once the weights are on a GPU: the blocks compute in bfloat16, the rest stays as it is."""
        self.blocks.to(torch.bfloat16)

    def _rows(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> dict[str, Segments]:
        return {name: segments.of(length_B).to(inputs["card_ts"].device) for name, length_B in lengths.items()}

    def _logits(self, inputs: dict[str, Tensor], rows: dict[str, Segments], lengths_B: Tensor | None) -> Tensor:
        """`lengths_B`: of the card's rows, on the CPU; None where the host is not to be asked."""
        card_B = self._card(inputs, rows["card"], lengths_B)
        now_B = inputs["card_ts"][rows["card"].end_B]
        streams_BD = self.streams(torch.cat([card_B, self._merchant(inputs, rows["merchant"], now_B)], 1))
        stats_BD = self.stats(features.merchant_stats(inputs["merchant_stats"]))
        out: Tensor = self.head(torch.cat([streams_BD, stats_BD], 1))
        return out[:, 0]

    def _told(self, logit_B: Tensor, rows: Segments) -> dict[str, Tensor]:
        p_B, score_B = self.calibration(logit_B, rows.cu_B1.diff())
        return {"p": p_B[:, None], "score": score_B[:, None]}

    def _card(self, inputs: dict[str, Tensor], rows: Segments, lengths_B: Tensor | None) -> Tensor:
        """The last event of each row after attention over the row, [B, D]."""
        events = features.card_events(inputs, rows)
        x_ND = self.embed(events)
        # Time as a position: a minute matters near the payment in hand, a week far from it.
        position_N = -8 * torch.log1p(events.age_h / 8)
        if lengths_B is None or x_ND.is_cuda:
            out_BD = self._packed(x_ND, position_N, rows)
        else:
            out_BD = self._bucketed(x_ND, position_N, lengths_B)
        normed: Tensor = self.norm(out_BD)
        return normed

    def _bucketed(self, x_ND: Tensor, position_N: Tensor, lengths_B: Tensor) -> Tensor:
        """On a CPU: a length bucket at a time, padded to the bucket's edge."""
        out_BD = x_ND.new_zeros(len(lengths_B), x_ND.shape[1])
        for rows, length in collate.by_bucket(lengths_B):
            index_BL, _ = collate.gather_index(lengths_B, rows, length)
            out_BD[rows] = self._encode(x_ND[index_BL], position_N[index_BL], lengths_B[rows] - 1)
        return out_BD

    def _encode(self, x_BLD: Tensor, position_BL: Tensor, last_B: Tensor) -> Tensor:
        """Only the payment in hand is scored, so the last block computes that one event of each row."""
        *blocks, final = cast("list[Block]", list(self.blocks))
        cos_BLK, sin_BLK = angles(position_BL, x_BLD.shape[-1] // self.heads)
        turn = cos_BLK[:, None], sin_BLK[:, None]
        for block in blocks:
            x_BLD = block(x_BLD, turn)
        return final.last(x_BLD, turn, last_B)

    def _packed(self, x_ND: Tensor, position_N: Tensor, rows: Segments) -> Tensor:
        """On a GPU: all rows at once, without padding, in the precision of the blocks."""
        *blocks, final = cast("list[Block]", list(self.blocks))
        cos_NK, sin_NK = angles(position_N, x_ND.shape[-1] // self.heads)
        turn = cos_NK[:, None], sin_NK[:, None]
        x_ND = x_ND.to(final.q.weight.dtype)
        for block in blocks:
            x_ND = block.packed(x_ND, turn, rows, wire.CARD_CAP)
        return final.packed_last(x_ND, turn, rows, wire.CARD_CAP).float()

    def _merchant(self, inputs: dict[str, Tensor], rows: Segments, now_B: Tensor) -> Tensor:
        """Fading means of the merchant's events and how many there were, [B, horizons · (M + 1)]. No padding at all."""
        events = features.merchant_events(inputs, rows, now_B)
        x_NM = self.merchant(self.embed(events))
        pooled = []
        for horizon_h in HORIZONS_H:
            weight_N1 = torch.exp(-events.age_h / horizon_h)[:, None]
            weight_B1 = x_NM.new_zeros(rows.rows, 1).index_add(0, rows.row_N, weight_N1)
            sum_BM = x_NM.new_zeros(rows.rows, x_NM.shape[1]).index_add(0, rows.row_N, weight_N1 * x_NM)
            pooled += [sum_BM / (weight_B1 + 1), torch.log1p(weight_B1)]
        return torch.where(rows.empty_B[:, None], self.no_history, torch.cat(pooled, 1))
