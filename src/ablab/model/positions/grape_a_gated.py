"""GRAPE-A whose slopes are gated by queries and keys."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from ablab.core.rng import Draw
from ablab.model.parts.columns import Columns, alibi_slopes
from ablab.model.positions.position import Position
from ablab.model.shape import Shape


class GrapeAGated(Position):
    """Bias -(i - j) c_h [softplus(v_h.q_i / sqrt K) + softplus(u_g.k_j / sqrt K)], a gated ALiBi.

    c_h = softplus(omega_h) times ALiBi's slope, starting at the slope. u, v are directions (their lengths cancel), of kv
    head g and of query head h: a key's gate lies with the key, as grouped keys do. At the start each gate is about ln 2.
    The bias factorises into at most 3 columns for any number of heads.

    by: which gates there are: that of the query (q), of the key (k), or both (qk)
    """

    source = "GRAPE, arXiv 2512.07805, gated GRAPE-A"
    reads = True
    relative = True
    revision = 2  # 2: long fp32 rows measure the bias block by block
    slope_H: torch.Tensor

    def __init__(self, shape: Shape, *, by: Literal["q", "k", "qk"] = "qk") -> None:
        super().__init__()
        if by not in ("q", "k", "qk"):
            raise ValueError(f"by is '{by}'; give 'q', 'k' or 'qk'")
        self.scale = shape.head_dim**-0.5
        self.omega_H = nn.Parameter(torch.empty(shape.n_heads))
        self.v_HK = nn.Parameter(torch.empty(shape.n_heads, shape.head_dim)) if "q" in by else None
        self.u_GK = nn.Parameter(torch.empty(shape.n_kv_heads, shape.head_dim)) if "k" in by else None
        self.register_buffer("slope_H", torch.empty(shape.n_heads), persistent=False)

    def init(self, draw: Draw) -> None:
        """Set the slopes, draw the gates' directions, and set omega where softplus is 1."""
        self.slope_H.copy_(torch.tensor(alibi_slopes(len(self.slope_H)), dtype=torch.float64))
        nn.init.constant_(self.omega_H, math.log(math.e - 1))
        for name, tensor in (("v_HK", self.v_HK), ("u_GK", self.u_GK)):
            if tensor is not None:
                draw.normal_(tensor, name, self.scale)

    def columns(self, q_BTHK: torch.Tensor, k_BTGK: torch.Tensor, p: torch.Tensor) -> Columns | None:
        # f_i j - i f_i for a query's gate, (-i) g_j + 1 (j g_j) for a key's: fp64, they are differences of large numbers.
        pos_BT1 = p.to(torch.float64)[..., None]
        c_H = (F.softplus(self.omega_H) * self.slope_H).to(torch.float64)
        u, w, row_BTH = [], [], pos_BT1.new_zeros(q_BTHK.shape[:3])
        if self.v_HK is not None:
            f_BTH = c_H * self._gate(q_BTHK, self.v_HK)
            u, w, row_BTH = [f_BTH], [pos_BT1.expand(k_BTGK.shape[:3])], -pos_BT1 * f_BTH
        if self.u_GK is not None:
            g_BTG = self._gate(k_BTGK, self.u_GK)
            u += [-pos_BT1 * c_H, c_H.expand(q_BTHK.shape[:3])]
            w += [g_BTG, pos_BT1 * g_BTG]
        return Columns(torch.stack(u, -1), torch.stack(w, -1), row_BTH)

    def _gate(self, x_BTHK: torch.Tensor, direction_HK: torch.Tensor) -> torch.Tensor:
        x = x_BTHK.to(torch.promote_types(x_BTHK.dtype, torch.float32))
        direction = F.normalize(direction_HK.to(x.dtype), dim=-1, eps=1e-6)
        return F.softplus((x * direction).sum(-1) * self.scale).to(torch.float64)
