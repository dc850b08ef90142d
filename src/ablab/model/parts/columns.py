"""Additive position schemes as low-rank columns: bias(i, j) = u_i . w_j + row_i.

GRAPE's additive schemes are unipotent: appended to queries and keys they turn into one more inner product, so that
plain attention computes them. What depends on the query alone (`row`) does not move a softmax over the keys; it is
kept apart because a sink, which competes with the keys, is not shifted by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Columns:
    """bias_BHTS[i, j] = sum_r u_BTHr[i] w_BSGr[j] + row_BTH[i], added after the scale, before the mask.

    u: (B|1, T|1, H, r), w: (B, S, G|1, r), row: (B, T, H), fp32 or fp64 (better: a bias is a difference of large
    numbers, and executors centre the columns before they round them); head h reads the columns of kv group h // (H/G).
    `parts`: how many bf16 numbers hold an entry of u, and of w, without loss (3 hold any fp32 number, 1 a small
    integer). slope_H: (H,), where the bias is -slope_H (i - j) within a document and nothing of it learns: a kernel that
    knows slopes needs no columns. Source: GRAPE (arXiv 2512.07805) section 4, score = q.k + (unipotent term).
    """

    u: torch.Tensor
    w: torch.Tensor
    row: torch.Tensor
    parts: tuple[int, int] = (3, 3)
    slope_H: torch.Tensor | None = None

    def bias(self, n_heads: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """Compute the dense bias_BHTS in `dtype`: for oracles and tests."""
        batch, length = self.row.shape[:2]
        u = self.u.to(dtype).expand(batch, length, n_heads, -1)
        w = per_head(self.w.to(dtype), n_heads)
        return torch.einsum("bthr,bshr->bhts", u, w) + self.row.to(dtype).transpose(1, 2)[..., None]


def alibi_slopes(n_heads: int) -> list[float]:
    """Return 2^(-8(h+1)/n) for a power of two; otherwise those of the lower power, then every second one of the higher."""
    power = 2 ** int(math.log2(n_heads))
    first = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    return first + [2 ** (-8 * (h + 1) / (2 * power)) for h in range(0, 2 * power, 2)][: n_heads - power]


def per_head(x_BSGr: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Repeat (B, S, G, r) -> (B, S, H, r): every head reads its group's entry; copies (oracles and tests only)."""
    return x_BSGr.repeat_interleave(n_heads // x_BSGr.shape[2], dim=2)
