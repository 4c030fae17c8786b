"""Causal self-attention with continuous time, and the block around it.

Legend: B = rows, L = length, D = width, H = heads, K = D / H.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def rotate(x_BHLK: Tensor, position_BL: Tensor) -> Tensor:
    """Rotary embedding at real-valued positions. Source: RoFormer, arXiv 2104.09864."""
    half = x_BHLK.shape[-1] // 2
    frequency_K = torch.exp(torch.arange(half, device=x_BHLK.device) * (-4.0 / half))
    angle_B1LK = position_BL[:, None, :, None] * frequency_K
    cos, sin = torch.cos(angle_B1LK), torch.sin(angle_B1LK)
    a, b = x_BHLK[..., :half], x_BHLK[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Block(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_hidden = nn.LayerNorm(width)
        self.hidden = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x_BLD: Tensor, position_BL: Tensor) -> Tensor:
        """Rows are filled from the left: padding stands behind every real event, where causality hides it."""
        rows, length, width = x_BLD.shape
        qkv = self.qkv(self.norm_attention(x_BLD)).reshape(rows, length, 3, self.heads, width // self.heads)
        q_BHLK, k_BHLK, v_BHLK = qkv.permute(2, 0, 3, 1, 4)
        q_BHLK, k_BHLK = rotate(q_BHLK, position_BL), rotate(k_BHLK, position_BL)
        mixed_BHLK = functional.scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK, is_causal=True)
        x_BLD = x_BLD + self.out(mixed_BHLK.transpose(1, 2).reshape(rows, length, width))
        hidden: Tensor = self.hidden(self.norm_hidden(x_BLD))
        return x_BLD + hidden
