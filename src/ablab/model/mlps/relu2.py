"""Squared ReLU."""

from __future__ import annotations

from torch import Tensor

from ablab.model.mlps.mlp import Mlp
from ablab.model.parts.activations import relu2
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
