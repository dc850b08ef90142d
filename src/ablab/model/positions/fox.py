"""FoX: the forget gate as a position."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ablab.core.rng import Draw
from ablab.model.parts.columns import Columns
from ablab.model.parts.linear import Gate
from ablab.model.parts.pairs import running
from ablab.model.positions.position import Position
from ablab.model.shape import Shape


class Fox(Position):
    """Forgetting attention: bias D_ij = sum_{l=j+1..i} log sigmoid(f_l), f_l = w_h . x_l + b_h.

    A token's place is the running sum of its document's log gates; the bias is a difference of places, so it is causal
    and relative. The gate's bias starts at 0, its weight at N(0, init_std^2). A constant gate exp(-slope) is ALiBi.
    """

    source = "Lin et al. 2025 (FoX), arXiv 2503.02130"
    relative = True
    revision = 3  # 2: the gate's weight has the role of a gate; 3: long fp32 rows measure the bias block by block

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.group = shape.n_heads // shape.n_kv_heads
        self.gate = Gate(shape.d_model, shape.n_heads, std=shape.init_std)
        self.bias_H = nn.Parameter(torch.empty(shape.n_heads))

    def init(self, draw: Draw) -> None:
        with torch.no_grad():
            self.bias_H.zero_()

    def place(
        self, x_BTD: torch.Tensor, pos_BT: torch.Tensor, carry: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Sum the document's log gates, (B, T, H), fp64, running; `carry` (B, H) is the sum before this stretch."""
        gate_BTH = F.logsigmoid(self.gate(x_BTD).to(self.bias_H.dtype) + self.bias_H)
        sums = running(gate_BTH, pos_BT, carry)
        return sums, sums[:, -1]

    def columns(self, q_BTHK: torch.Tensor, k_BTGK: torch.Tensor, p: torch.Tensor) -> Columns | None:
        # One column for each head of a group and a one-hot u: every head finds its own sum in the keys of its group,
        # uncopied.
        u = torch.eye(self.group, dtype=p.dtype, device=p.device).repeat(p.shape[-1] // self.group, 1)
        return Columns(u[None, None], -p.unflatten(-1, (-1, self.group)), p, parts=(1, 3))
