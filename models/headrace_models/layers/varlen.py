"""Attention over packed rows without padding. One function: flash kernels where there are any, else row by row.

Legend: N = packed queries or keys, B = rows, H = heads, K = width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn

KERNELS = (torch.bfloat16, torch.float16)


def attend(  # noqa: PLR0913  what the kernel takes
    q_NHK: Tensor, k_NHK: Tensor, v_NHK: Tensor, cu_q_B1: Tensor, cu_k_B1: Tensor, longest: int, *, causal: bool
) -> Tensor:
    """Each row's queries over the row's keys, [N, H, K]. `causal`: not over what comes after; lengths are equal then.

    `longest`: no row has more events. One split over the keys, so that a row's sums do not depend on its batch.
    """
    if q_NHK.is_cuda and q_NHK.dtype in KERNELS:
        window = (-1, 0) if causal else (-1, -1)
        longest_q = longest if causal else 1
        found = varlen_attn(q_NHK, k_NHK, v_NHK, cu_q_B1, cu_k_B1, longest_q, longest, window_size=window, num_splits=1)
        assert isinstance(found, Tensor), "This is a bug."  # a pair only where more is asked for
        return found
    return _row_by_row(q_NHK, k_NHK, v_NHK, cu_q_B1, cu_k_B1, causal=causal)


def _row_by_row(
    q_NHK: Tensor, k_NHK: Tensor, v_NHK: Tensor, cu_q_B1: Tensor, cu_k_B1: Tensor, *, causal: bool
) -> Tensor:
    """What the kernel computes, on any device and in any precision: slow, and for tests."""
    out_NHK = torch.zeros_like(q_NHK)
    for row in range(len(cu_q_B1) - 1):
        queries = slice(int(cu_q_B1[row]), int(cu_q_B1[row + 1]))
        keys = slice(int(cu_k_B1[row]), int(cu_k_B1[row + 1]))
        if queries.stop > queries.start and keys.stop > keys.start:
            q, k, v = (x[None].transpose(1, 2) for x in (q_NHK[queries], k_NHK[keys], v_NHK[keys]))
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
            out_NHK[queries] = mixed.transpose(1, 2)[0]
    return out_NHK
