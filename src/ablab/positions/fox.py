"""FoX: the forget gate as a position."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ablab.columns import Columns
from ablab.linear import Linear
from ablab.rng import Draw
from ablab.shape import Shape


class Fox(nn.Module):
    """Forgetting attention: bias D_ij = sum_{l=j+1..i} log sigmoid(f_l), f_l = w_h . x_l + b_h (FoX, arXiv 2503.02130).

    A token's place is the running sum of its document's log gates; the bias is a difference of places, so it is causal
    and relative. The gate's bias starts at 0, its weight at N(0, init_std^2). A constant gate exp(-slope) is ALiBi.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.group = shape.n_heads // shape.n_kv_heads
        self.gate = Linear(shape.d_model, shape.n_heads, std=shape.init_std)
        self.bias_H = nn.Parameter(torch.empty(shape.n_heads))

    def init(self, draw: Draw) -> None:
        with torch.no_grad():
            self.bias_H.zero_()

    def place(
        self, x_BTD: torch.Tensor, pos_BT: torch.Tensor, carry: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Running sum of the document's log gates, (B, T, H), fp64; `carry` (B, H) is the sum before this stretch."""
        gate_BTH = F.logsigmoid(self.gate(x_BTD).to(self.bias_H.dtype) + self.bias_H)
        total = gate_BTH.to(torch.float64).cumsum(1)  # biases are differences of large sums
        start_BT = torch.arange(x_BTD.shape[1], device=x_BTD.device) - pos_BT
        before = torch.cat([torch.zeros_like(total[:, :1]), total], 1)
        # A document that began before this stretch goes on from the carry; without one, from the stretch's start.
        sums = total - before.gather(1, start_BT.clamp(min=0)[..., None].expand_as(total))
        if carry is not None:
            sums = sums + carry[:, None].to(sums.dtype) * (start_BT < 0)[..., None]
        return sums, sums[:, -1]

    def rotate(self, q_BTHK: torch.Tensor, k_BTGK: torch.Tensor, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return q_BTHK, k_BTGK

    def columns(self, q_BTHK: torch.Tensor, k_BTGK: torch.Tensor, p: torch.Tensor) -> Columns | None:
        # One column for each head of a group and a one-hot u: every head finds its own sum in the keys of its group,
        # uncopied.
        u = torch.eye(self.group, dtype=p.dtype, device=p.device).repeat(p.shape[-1] // self.group, 1)
        return Columns(u[None, None], -p.unflatten(-1, (-1, self.group)), p, parts=(1, 3))

    def bias(self, p: torch.Tensor) -> torch.Tensor | None:
        return None
