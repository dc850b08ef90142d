"""Squared leaky ReLU."""

from __future__ import annotations

from torch import Tensor

from ablab.model.mlps.activations import leaky_relu2
from ablab.model.mlps.mlp import Mlp
from ablab.model.parts.linear import Linear
from ablab.model.shape import Shape


class LeakyRelu2(Mlp):
    """down(leaky_relu(up x)^2), no gate: relu2 with a gradient below zero.

    x_BTD -> BTD. The square makes the function even-like: a negative input gives slope^2 x^2, never a negative output.
    Raises ValueError where slope is negative or ratio leaves no whole hidden unit.

    slope: of the leaky part; 0 is relu2
    ratio (d_model): hidden width
    """

    source = "openai/parameter-golf #549"

    def __init__(self, shape: Shape, *, slope: float = 0.5, ratio: float = 4.0) -> None:
        super().__init__()
        hidden = round(ratio * shape.d_model)
        if hidden < 1:
            raise ValueError(f"ratio = {ratio} leaves no hidden unit; choose a ratio above {1 / shape.d_model:g}")
        if slope < 0:
            raise ValueError(f"slope = {slope} is negative; choose 0 (which is relu2) or more")
        self.slope = slope
        self.up_proj = Linear(shape.d_model, hidden, std=shape.init_std, bias=shape.bias)
        self.down_proj = Linear(hidden, shape.d_model, std=shape.out_std, bias=shape.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out: Tensor = self.down_proj(leaky_relu2(self.up_proj(x_BTD), self.slope))
        return out
