"""GELU."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from ablab.model.mlps.mlp import Mlp
from ablab.model.parts.linear import Linear
from ablab.model.shape import Shape


class Gelu(Mlp):
    """down(gelu(up x)), no gate.

    x_BTD -> BTD. Raises ValueError where ratio leaves no whole hidden unit.

    ratio (d_model): hidden width
    approximate: tanh as GPT-2 has it, or none for x Phi(x) itself
    """

    source = "Hendrycks and Gimpel 2016, arXiv 1606.08415; Radford et al. 2019 (GPT-2)"

    def __init__(self, shape: Shape, *, ratio: float = 4.0, approximate: Literal["tanh", "none"] = "tanh") -> None:
        super().__init__()
        hidden = round(ratio * shape.d_model)
        if hidden < 1:
            raise ValueError(f"ratio = {ratio} leaves no hidden unit; choose a ratio above {1 / shape.d_model:g}")
        self.approximate = approximate
        self.up_proj = Linear(shape.d_model, hidden, std=shape.init_std, bias=shape.bias)
        self.down_proj = Linear(hidden, shape.d_model, std=shape.out_std, bias=shape.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.gelu(self.up_proj(x_BTD), approximate=self.approximate))
        return out
