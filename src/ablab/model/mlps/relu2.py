"""Squared ReLU."""

from __future__ import annotations

import torch
from torch import Tensor

from ablab.model.mlps.mlp import Mlp
from ablab.model.parts.context import Context
from ablab.model.parts.linear import Linear
from ablab.model.shape import Shape


class Relu2(Mlp):
    """down(relu(up x)^2), no gate.

    x_BTD -> BTD. Raises ValueError where ratio leaves no whole hidden unit.

    ratio (d_model): hidden width
    """

    source = "So et al. 2021 (Primer), arXiv 2109.08668, section 3"

    def __init__(self, shape: Shape, *, ratio: float = 4.0) -> None:
        super().__init__()
        hidden = round(ratio * shape.d_model)
        if hidden < 1:
            raise ValueError(f"ratio = {ratio} leaves no hidden unit; choose a ratio above {1 / shape.d_model:g}")
        self.up_proj = Linear(shape.d_model, hidden, std=shape.init_std, bias=shape.bias)
        self.down_proj = Linear(hidden, shape.d_model, std=shape.out_std, bias=shape.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out: Tensor = self.down_proj(relu2(self.up_proj(x_BTD)))
        return out


def relu2(h: Tensor) -> Tensor:
    """Compute relu(h)^2. So et al. 2021 (Primer), 2109.08668, section 3."""
    y: Tensor = _SquaredRelu.apply(h)
    return y


class _SquaredRelu(torch.autograd.Function):
    """relu(x)^2 keeping one tensor: relu(x) is its own derivative up to 2. Half the passes of relu then square."""

    @staticmethod
    def forward(ctx: Context, x: Tensor) -> Tensor:
        r = x.relu()
        ctx.save_for_backward(r)
        return r * r

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> Tensor:
        (r,) = ctx.saved_tensors
        return torch.addcmul(grad.new_zeros(()), grad, r, value=2)  # 2 grad r in one pass
