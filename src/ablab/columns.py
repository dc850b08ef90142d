"""Additive position schemes as low-rank columns: bias(i, j) = u_i . w_j + row_i.

GRAPE's additive schemes are unipotent: appended to queries and keys they turn into one more inner product, so that
plain attention computes them. What depends on the query alone (`row`) does not move a softmax over the keys; it is
kept apart because a sink, which competes with the keys, is not shifted by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Columns:
    """bias_BHTS[i, j] = sum_r u_BTHr[i] w_BSGr[j] + row_BTH[i], added after the scale, before the mask.

    u: (B|1, T|1, H, r), w: (B, S, G|1, r), row: (B, T, H), fp32 or fp64 (better: a bias is a difference of large
    numbers, and executors centre the columns before they round them); head h reads the columns of kv group h // (H/G).
    `parts`: how many bf16 numbers hold an entry of u, and of w, without loss (3 hold any fp32 number, 1 a small
    integer). Source: GRAPE (arXiv 2512.07805) section 4, score = q.k + (unipotent term).
    """

    u: torch.Tensor
    w: torch.Tensor
    row: torch.Tensor
    parts: tuple[int, int] = (3, 3)

    def bias(self, n_heads: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """The dense bias_BHTS in `dtype`: for oracles and tests."""
        batch, length = self.row.shape[:2]
        u = self.u.to(dtype).expand(batch, length, n_heads, -1)
        w = per_head(self.w.to(dtype), n_heads)
        return torch.einsum("bthr,bshr->bhts", u, w) + self.row.to(dtype).transpose(1, 2)[..., None]


def joined(several: Sequence[Columns]) -> Columns:
    """The sum of several biases: their columns side by side."""
    if len(several) == 1:
        return several[0]
    u = _side_by_side([c.u for c in several])
    w = _side_by_side([c.w for c in several])
    row = torch.stack(torch.broadcast_tensors(*(c.row for c in several))).sum(0)
    return Columns(u, w, row, (max(c.parts[0] for c in several), max(c.parts[1] for c in several)))


def per_head(x_BSGr: torch.Tensor, n_heads: int) -> torch.Tensor:
    """(B, S, G, r) -> (B, S, H, r): every head reads its group's entry; copies (oracles and tests only)."""
    return x_BSGr.repeat_interleave(n_heads // x_BSGr.shape[2], dim=2)


def _side_by_side(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    batch, length, heads = (max(t.shape[d] for t in tensors) for d in range(3))
    return torch.cat([t.expand(batch, length, heads, t.shape[3]) for t in tensors], dim=3)
