"""Causal self-attention with continuous time, and the block around it.

Legend: B = rows, L = length, D = width, H = heads, K = D / H.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

Angles = tuple[Tensor, Tensor]


def angles(position_BL: Tensor, width: int) -> Angles:
    """Cosine and sine, [B, 1, L, width / 2], by which heads of `width` turn at real-valued positions."""
    half = width // 2
    frequency_K = torch.exp(torch.arange(half, device=position_BL.device) * (-4.0 / half))
    angle_B1LK = position_BL[:, None, :, None] * frequency_K
    return torch.cos(angle_B1LK), torch.sin(angle_B1LK)


def rotate(x_BHLK: Tensor, turn: Angles) -> Tensor:
    """Rotary embedding. Source: RoFormer, arXiv 2104.09864."""
    cos, sin = turn
    half = x_BHLK.shape[-1] // 2
    a, b = x_BHLK[..., :half], x_BHLK[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Block(nn.Module):
    """Pre-norm attention and feed-forward.

    Rows are filled from the left: padding stands behind every real event, where causality hides it.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.norm_hidden = nn.LayerNorm(width)
        self.hidden = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x_BLD: Tensor, turn: Angles) -> Tensor:
        """Every event after looking at itself and what came before it."""
        normed_BLD = self.norm_attention(x_BLD)
        k_BHLK, v_BHLK = self._keys_values(normed_BLD, turn)
        q_BHLK = rotate(self._split(self.q(normed_BLD)), turn)
        mixed_BHLK = functional.scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK, is_causal=True)
        return self._finish(x_BLD, mixed_BHLK)

    def last(self, x_BLD: Tensor, turn: Angles, last_B: Tensor) -> Tensor:
        """What `forward` gives at place `last_B` of each row, [B, D], for a fraction of the work."""
        rows_B = torch.arange(len(x_BLD), device=x_BLD.device)
        normed_BLD = self.norm_attention(x_BLD)
        k_BHLK, v_BHLK = self._keys_values(normed_BLD, turn)
        cos, sin = (part[rows_B, :, last_B][:, :, None] for part in turn)
        q_BH1K = rotate(self._split(self.q(normed_BLD[rows_B, last_B])[:, None]), (cos, sin))
        seen_B11L = (torch.arange(x_BLD.shape[1], device=x_BLD.device) <= last_B[:, None])[:, None, None]
        mixed_BH1K = functional.scaled_dot_product_attention(q_BH1K, k_BHLK, v_BHLK, attn_mask=seen_B11L)
        return self._finish(x_BLD[rows_B, last_B][:, None], mixed_BH1K)[:, 0]

    def _keys_values(self, normed_BLD: Tensor, turn: Angles) -> tuple[Tensor, Tensor]:
        k_BLD, v_BLD = self.kv(normed_BLD).chunk(2, dim=-1)
        return rotate(self._split(k_BLD), turn), self._split(v_BLD)

    def _split(self, x_BLD: Tensor) -> Tensor:
        rows, length, width = x_BLD.shape
        return x_BLD.reshape(rows, length, self.heads, width // self.heads).transpose(1, 2)

    def _finish(self, x_BLD: Tensor, mixed_BHLK: Tensor) -> Tensor:
        x_BLD = x_BLD + self.out(mixed_BHLK.transpose(1, 2).flatten(2))
        hidden: Tensor = self.hidden(self.norm_hidden(x_BLD))
        return x_BLD + hidden
