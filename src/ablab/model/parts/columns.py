"""Additive position schemes: as low-rank columns, bias(i, j) = u_i . w_j + row_i, or pair by pair.

GRAPE's additive schemes are unipotent: appended to queries and keys they turn into one more inner product, so that
plain attention computes them. What depends on the query alone (`row`) does not move a softmax over the keys; it is
kept apart because a sink, which competes with the keys, is not shifted by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class Pairwise:
    """A bias that is no inner product of columns: computed pair by pair, a block of queries and keys at a time.

    of(p_query, p_key) -> bias_BHTS (B|1, H, T, S), fp32 or fp64, added after the scale, before the mask; what it says
    of pairs that a query does not see is ignored, but must be a number. place: what tokens' places are, a tensor or a
    tuple (of tuples) of tensors, all with leading axes (B, length).
    """

    of: Callable[[Any, Any], torch.Tensor]
    place: object

    def block(self, rows: slice, keys: slice) -> torch.Tensor:
        """Compute the bias_BHTS of the queries `rows` over the keys `keys`."""
        return self.of(cut(self.place, rows), cut(self.place, keys))


def cut(place: object, length: slice) -> object:
    """Cut out the places of some of the tokens: every tensor of `place` along its second axis."""
    return across(lambda x: x[:, length], place)


def across(do: Callable[..., Any], *places: Any) -> Any:
    """Apply `do` to the tensors of one or several places of like structure, laid out like them."""
    if isinstance(places[0], tuple):
        return tuple(across(do, *parts) for parts in zip(*places, strict=True))
    return None if places[0] is None else do(*places)


def running(each_BTN: torch.Tensor, pos_BT: torch.Tensor, carry_BN: torch.Tensor | None) -> torch.Tensor:
    """Sum along every document, the current token included, fp64: biases are differences of large sums.

    A document that began before this stretch (pos says so) goes on from the carry; without one, from the stretch's
    start.
    """
    total = each_BTN.to(torch.float64).cumsum(1)
    start_BT = torch.arange(each_BTN.shape[1], device=each_BTN.device) - pos_BT
    before = torch.cat([torch.zeros_like(total[:, :1]), total], 1)
    sums = total - before.gather(1, start_BT.clamp(min=0)[..., None].expand_as(total))
    if carry_BN is not None:
        sums = sums + carry_BN[:, None].to(sums.dtype) * (start_BT < 0)[..., None]
    return sums


def alibi_slopes(n_heads: int) -> list[float]:
    """Return 2^(-8(h+1)/n) for a power of two; otherwise those of the lower power, then every second one of the higher."""
    power = 2 ** int(math.log2(n_heads))
    first = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    return first + [2 ** (-8 * (h + 1) / (2 * power)) for h in range(0, 2 * power, 2)][: n_heads - power]


def joined(several: Sequence[Columns]) -> Columns:
    """Sum several biases: their columns side by side."""
    if len(several) == 1:
        return several[0]
    u = _side_by_side([c.u for c in several])
    w = _side_by_side([c.w for c in several])
    row = torch.stack(torch.broadcast_tensors(*(c.row for c in several))).sum(0)
    return Columns(u, w, row, (max(c.parts[0] for c in several), max(c.parts[1] for c in several)))


def per_head(x_BSGr: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Repeat (B, S, G, r) -> (B, S, H, r): every head reads its group's entry; copies (oracles and tests only)."""
    return x_BSGr.repeat_interleave(n_heads // x_BSGr.shape[2], dim=2)


def _side_by_side(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    batch, length, heads = (max(t.shape[d] for t in tensors) for d in range(3))
    return torch.cat([t.expand(batch, length, heads, t.shape[3]) for t in tensors], dim=3)
