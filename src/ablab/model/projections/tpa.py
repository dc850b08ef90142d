"""Tensor product attention's projection: queries, keys and values as sums of few outer products."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ablab.core.rng import Draw
from ablab.model.parts.linear import Linear
from ablab.model.projections.projection import Projection
from ablab.model.shape import Shape


class Tpa(Projection):
    """q, k, v as A B / R: A (heads, R) and B (R, head_dim) both linear in x.

    x_BTD -> q_BTHK, k_BTGK, v_BTGK. A's channels are head R + r, B's r head_dim + k. No QK-norm in the original; with it
    only v starts smaller than a full matrix would make it. Raises ValueError where a rank is below 1 or heads do not fit.

    rank: R of k and v
    q_rank: R of q
    factors: A of k and v spans the kv groups (vpMoE), or all heads (the paper; it takes n_kv_heads = n_heads, as each head
        then has its own key)
    init: normal is N(0, init_std^2); official the T6 code's xavier on three axes, uniform within sqrt(6 / (R (d_model +
        heads))) for A and sqrt(6 / (head_dim (d_model + R))) for B
    bias: one vector (q, then k, then v), added after the product, zero at first; default: as model.bias
    """

    source = "Zhang et al. 2025, arXiv 2501.06425; over kv groups: Megatron fork vpMoE"

    def __init__(
        self,
        shape: Shape,
        *,
        rank: int = 2,
        q_rank: int = 6,
        factors: Literal["groups", "heads"] = "groups",
        init: Literal["normal", "official"] = "normal",
        bias: bool | None = None,
    ) -> None:
        super().__init__()
        heads, groups, size = shape.n_heads, shape.n_kv_heads, shape.head_dim
        for name, given in (("rank", rank), ("q_rank", q_rank)):
            if given < 1:
                raise ValueError(f"{name} = {given} leaves no factor; choose 1 or more")
        if groups < 1 or heads % groups:
            raise ValueError(
                f"n_heads = {heads} is no multiple of n_kv_heads = {groups}; "
                "choose n_kv_heads among the divisors of n_heads"
            )
        if factors == "heads" and groups != heads:
            raise ValueError(
                f'factors = "heads" makes {heads} keys and values, n_kv_heads is {groups}; '
                f'set n_kv_heads = {heads}, or factors = "groups"'
            )
        self.heads, self.groups, self.size, self.rank, self.q_rank = heads, groups, size, rank, q_rank
        d, uniform, std = shape.d_model, init == "official", shape.init_std
        self.a_q, self.b_q = _pair(d, heads, q_rank, size, std, uniform)
        self.a_k, self.b_k = _pair(d, groups, rank, size, std, uniform)
        self.a_v, self.b_v = _pair(d, groups, rank, size, std, uniform)
        has = shape.bias if bias is None else bias
        self.bias = nn.Parameter(torch.empty((heads + 2 * groups) * size)) if has else None

    def init(self, draw: Draw) -> None:
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q_BTHK = _product(self.a_q(x_BTD), self.b_q(x_BTD), self.q_rank)
        k_BTGK = _product(self.a_k(x_BTD), self.b_k(x_BTD), self.rank)
        v_BTGK = _product(self.a_v(x_BTD), self.b_v(x_BTD), self.rank)
        if self.bias is None:
            return q_BTHK, k_BTGK, v_BTGK
        of_q, of_k, of_v = self.bias.unflatten(0, (-1, self.size)).split([self.heads, self.groups, self.groups])
        return q_BTHK + of_q.to(q_BTHK.dtype), k_BTGK + of_k.to(k_BTGK.dtype), v_BTGK + of_v.to(v_BTGK.dtype)

    def factors(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """Return a_k_BTGR, b_k_BTRK, a_v_BTGR, b_v_BTRK with k = a_k b_k, v = a_v b_v: what a decoder may keep instead of k, v.

        None where there is a bias: k and v are then no product of the factors.
        """
        if self.bias is not None:
            return None
        a_k, b_k, a_v, b_v = (f(x_BTD) for f in (self.a_k, self.b_k, self.a_v, self.b_v))
        by_head, by_rank = (-1, self.rank), (self.rank, -1)
        return (
            a_k.unflatten(-1, by_head) / self.rank,
            b_k.unflatten(-1, by_rank),
            a_v.unflatten(-1, by_head) / self.rank,
            b_v.unflatten(-1, by_rank),
        )


class _Uniform(Linear):
    """A matrix whose entries start uniform within +-bound, in every model (the model's own init does not reach it)."""

    def __init__(self, d_in: int, d_out: int, *, bound: float) -> None:
        super().__init__(d_in, d_out, std=bound / 3**0.5)
        self.bound = bound

    def init(self, draw: Draw) -> None:
        draw.uniform_(self.weight, "weight", self.bound)


def _pair(d: int, heads: int, rank: int, size: int, std: float, uniform: bool) -> tuple[Linear, Linear]:
    """Make the matrices of A (heads x rank) and B (rank x size)."""
    if not uniform:
        return Linear(d, heads * rank, std=std), Linear(d, rank * size, std=std)
    a, b = (6 / (rank * (d + heads))) ** 0.5, (6 / (size * (d + rank))) ** 0.5
    return _Uniform(d, heads * rank, bound=a), _Uniform(d, rank * size, bound=b)


def _product(a: Tensor, b: Tensor, rank: int) -> Tensor:
    """Compute A B / R, (B, T, heads R) and (B, T, R K) -> (B, T, heads, K), in the factors' type.

    One batched product. On a CPU bf16 factors are widened first: tiny bf16 products are 6 times slower there (one core,
    2048 tokens, 8 heads of 64, R 6, forward and backward: 21 ms, widened 3.5). Summing R outer products element by
    element took 15 ms in fp32, the product 3.
    """
    kind = a.dtype
    if not a.is_cuda and kind in (torch.bfloat16, torch.float16):
        a, b = a.float(), b.float()
    with torch.autocast(a.device.type, enabled=False):  # else it would narrow them again
        out: Tensor = ((a / rank).unflatten(-1, (-1, rank)) @ b.unflatten(-1, (rank, -1))).to(kind)
        return out
