"""Causal self-attention with continuous time, and the block around it.

Legend: B = rows, L = length of padded rows, N = packed events, D = width, H = heads, K = D / H.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from headrace_models.layers.varlen import attend
from headrace_models.segments import Segments

Angles = tuple[Tensor, Tensor]


def angles(position: Tensor, width: int) -> Angles:
    """Cosine and sine, [..., width / 2], by which heads of `width` turn at real-valued positions [...]."""
    half = width // 2
    frequency_K = torch.exp(torch.arange(half, device=position.device) * (-4.0 / half))
    angle = position[..., None] * frequency_K
    return torch.cos(angle), torch.sin(angle)


def rotate(x: Tensor, turn: Angles) -> Tensor:
    """Rotary embedding of [..., K], in the precision of the angles. Source: RoFormer, arXiv 2104.09864."""
    cos, sin = turn
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class Block(nn.Module):
    """Pre-norm attention and feed-forward, over padded rows or over packed ones.

    Padded rows are filled from the left: padding stands behind every real event, where causality hides it.
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

    # Padded: turn is [B, 1, L, K / 2] ---------------------------------------------------------------------------------

    def forward(self, x_BLD: Tensor, turn: Angles) -> Tensor:
        """Every event after looking at itself and what came before it."""
        normed_BLD = self.norm_attention(x_BLD)
        k_BHLK, v_BHLK = self._keys_values(normed_BLD, turn)
        q_BHLK = rotate(self._split(self.q(normed_BLD)), turn)
        mixed_BHLK = functional.scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK, is_causal=True)
        return self._finish(x_BLD, mixed_BHLK.transpose(1, 2).flatten(2))

    def last(self, x_BLD: Tensor, turn: Angles, last_B: Tensor) -> Tensor:
        """What `forward` gives at place `last_B` of each row, [B, D], for a fraction of the work."""
        rows_B = torch.arange(len(x_BLD), device=x_BLD.device)
        normed_BLD = self.norm_attention(x_BLD)
        k_BHLK, v_BHLK = self._keys_values(normed_BLD, turn)
        cos, sin = (part[rows_B, :, last_B][:, :, None] for part in turn)
        q_BH1K = rotate(self._split(self.q(normed_BLD[rows_B, last_B])[:, None]), (cos, sin))
        seen_B11L = (torch.arange(x_BLD.shape[1], device=x_BLD.device) <= last_B[:, None])[:, None, None]
        mixed_BH1K = functional.scaled_dot_product_attention(q_BH1K, k_BHLK, v_BHLK, attn_mask=seen_B11L)
        return self._finish(x_BLD[rows_B, last_B], mixed_BH1K.flatten(1))

    # Packed: turn is [N, 1, K / 2] ------------------------------------------------------------------------------------

    def packed(self, x_ND: Tensor, turn: Angles, rows: Segments, longest: int) -> Tensor:
        """`forward` without padding; no row is longer than `longest`."""
        normed_ND = self.norm_attention(x_ND)
        k_NHK, v_NHK = self._packed_keys_values(normed_ND, turn)
        q_NHK = rotate(self.q(normed_ND).unflatten(1, (self.heads, -1)), turn)
        mixed_NHK = attend(q_NHK, k_NHK, v_NHK, rows.cu_B1, rows.cu_B1, longest, causal=True)
        return self._finish(x_ND, mixed_NHK.flatten(1))

    def packed_last(self, x_ND: Tensor, turn: Angles, rows: Segments, longest: int) -> Tensor:
        """`last` without padding, [B, D]: one query a row, over all of the row."""
        normed_ND = self.norm_attention(x_ND)
        k_NHK, v_NHK = self._packed_keys_values(normed_ND, turn)
        cos, sin = (part[rows.end_B] for part in turn)
        q_BHK = rotate(self.q(normed_ND[rows.end_B]).unflatten(1, (self.heads, -1)), (cos, sin))
        one_each_B1 = torch.arange(rows.rows + 1, dtype=torch.int32, device=x_ND.device)
        mixed_BHK = attend(q_BHK, k_NHK, v_NHK, one_each_B1, rows.cu_B1, longest, causal=False)
        return self._finish(x_ND[rows.end_B], mixed_BHK.flatten(1))

    def _packed_keys_values(self, normed_ND: Tensor, turn: Angles) -> tuple[Tensor, Tensor]:
        k_ND, v_ND = self.kv(normed_ND).chunk(2, dim=-1)
        k_NHK, v_NHK = (x.unflatten(1, (self.heads, -1)) for x in (k_ND, v_ND))
        return rotate(k_NHK, turn), v_NHK.contiguous()

    # Both -------------------------------------------------------------------------------------------------------------

    def _keys_values(self, normed_BLD: Tensor, turn: Angles) -> tuple[Tensor, Tensor]:
        k_BLD, v_BLD = self.kv(normed_BLD).chunk(2, dim=-1)
        return rotate(self._split(k_BLD), turn), self._split(v_BLD)

    def _split(self, x_BLD: Tensor) -> Tensor:
        rows, length, width = x_BLD.shape
        return x_BLD.reshape(rows, length, self.heads, width // self.heads).transpose(1, 2)

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.out(mixed)
        hidden: Tensor = self.hidden(self.norm_hidden(x))
        return x + hidden
