"""GRAPE-A with a content-free generator: ALiBi."""

from __future__ import annotations

import torch

from ablab.core.rng import Draw
from ablab.model.parts.columns import Columns, alibi_slopes
from ablab.model.positions.position import Position
from ablab.model.shape import Shape


class GrapeA(Position):
    """Linear distance bias -slope_h (i - j), not learned.

    For whatever number of heads: the slopes of the next lower power of two, then every second one of the next higher. The bias
    factorises into (slope_h) x (j): grouped keys stay shared.

    slope_scale: multiplies every slope; 0 is refused (that is nope)
    """

    source = "Press et al. 2021 (ALiBi), arXiv 2108.12409; GRAPE-A, arXiv 2512.07805"
    relative = True
    revision = 2  # 2: long fp32 rows measure the bias block by block
    slope_H: torch.Tensor

    def __init__(self, shape: Shape, *, slope_scale: float = 1.0) -> None:
        super().__init__()
        if not slope_scale > 0:
            raise ValueError(f"slope_scale is {slope_scale:g}, but a slope is positive; use nope for no bias")
        self.slope_scale = slope_scale
        self.register_buffer("slope_H", torch.empty(shape.n_heads), persistent=False)

    def init(self, draw: Draw) -> None:
        """Set the slopes; nothing is drawn."""
        self.slope_H.copy_(torch.tensor(alibi_slopes(len(self.slope_H)), dtype=torch.float64) * self.slope_scale)

    def columns(self, q_BTHK: torch.Tensor, k_BTGK: torch.Tensor, p: torch.Tensor) -> Columns | None:
        pos_BT, slope_H = p.to(self.slope_H.dtype), self.slope_H
        u, w, row = slope_H[None, None, :, None], pos_BT[..., None, None], -pos_BT[..., None] * slope_H
        # Two bf16 numbers hold any place below 65,536 exactly.
        return Columns(u, w, row, parts=(3, 2), slope_H=slope_H)
