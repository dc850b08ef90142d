"""Grouped-query attention's projection: one matrix each for queries, keys and values."""

from __future__ import annotations

from torch import Tensor

from ablab.model.parts.linear import Linear
from ablab.model.projections.projection import Projection
from ablab.model.shape import Shape


class Gqa(Projection):
    """One full-rank matrix each for q, k and v; n_kv_heads = n_heads is MHA, 1 is MQA.

    x_BTD -> q_BTHK, k_BTGK, v_BTGK. Three matrices and not a fused one, so that each has its own random stream and its own
    orthogonalised update. Raises ValueError where n_heads is not a multiple of n_kv_heads.

    bias: all three have one; default: as model.bias
    """

    source = "Ainslie et al. 2023, arXiv 2305.13245"

    def __init__(self, shape: Shape, *, bias: bool | None = None) -> None:
        super().__init__()
        if shape.n_kv_heads < 1 or shape.n_heads % shape.n_kv_heads:
            raise ValueError(
                f"n_heads = {shape.n_heads} is no multiple of n_kv_heads = {shape.n_kv_heads}; "
                "choose n_kv_heads among the divisors of n_heads"
            )
        self.head_dim = shape.head_dim
        bias = shape.bias if bias is None else bias
        kv = shape.n_kv_heads * shape.head_dim
        self.q_proj = Linear(shape.d_model, shape.n_heads * shape.head_dim, std=shape.init_std, bias=bias)
        self.k_proj = Linear(shape.d_model, kv, std=shape.init_std, bias=bias)
        self.v_proj = Linear(shape.d_model, kv, std=shape.init_std, bias=bias)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = (-1, self.head_dim)
        return (
            self.q_proj(x_BTD).unflatten(-1, heads),
            self.k_proj(x_BTD).unflatten(-1, heads),
            self.v_proj(x_BTD).unflatten(-1, heads),
        )
