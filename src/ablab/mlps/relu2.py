"""Squared ReLU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ablab.linear import Linear
from ablab.shape import Shape


class Relu2(nn.Module):
    """down(relu(up x)^2), no gate. So et al. 2021 (Primer), 2109.08668, section 3.

    x_BTD -> BTD. `ratio` is the hidden width in units of d_model. Raises ValueError where it leaves no whole hidden unit.
    """

    def __init__(self, shape: Shape, *, ratio: float = 4.0) -> None:
        super().__init__()
        hidden = round(ratio * shape.d_model)
        if hidden < 1:
            raise ValueError(f"ratio = {ratio} leaves no hidden unit; choose a ratio above {1 / shape.d_model:g}")
        self.up_proj = Linear(shape.d_model, hidden, std=shape.init_std)
        self.down_proj = Linear(hidden, shape.d_model, std=shape.out_std)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down_proj(_SquaredRelu.apply(self.up_proj(x_BTD)))


class _SquaredRelu(torch.autograd.Function):
    """relu(x)^2 keeping one tensor: relu(x) is its own derivative up to 2. Half the passes of relu then square."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        r = x.relu()
        ctx.save_for_backward(r)
        return r * r

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (r,) = ctx.saved_tensors
        return torch.addcmul(grad.new_zeros(()), grad, r, value=2)  # 2 grad r in one pass
