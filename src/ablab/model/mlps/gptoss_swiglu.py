"""The clamped SwiGLU of gpt-oss."""

from __future__ import annotations

from torch import Tensor

from ablab.model.mlps.activations import gptoss_swiglu
from ablab.model.mlps.mlp import Mlp
from ablab.model.parts.linear import Linear
from ablab.model.shape import Shape


class GptossSwiglu(Mlp):
    """down(g sigmoid(alpha g) (u + 1)), g = min(gate x, limit), u = up x within +-limit.

    x_BTD -> BTD. Two matrices; gpt-oss interleaves their rows in one (even rows are gate_proj's, odd ones up_proj's). The +
    1 lets the unit pass its gate at u = 0. gpt-oss has biases (model.bias = true) and ratio 1. Raises ValueError where no
    unit is left, or alpha or limit is not positive.

    ratio (d_model): hidden width; 8/3 gives the parameters of an ungated MLP of ratio 4
    alpha: of the sigmoid's argument
    limit: g is cut above it, u beyond it on both sides
    multiple (units): hidden widths are rounded to the nearest multiple
    """

    source = "OpenAI gpt-oss, 2025"

    def __init__(
        self, shape: Shape, *, ratio: float = 8 / 3, alpha: float = 1.702, limit: float = 7.0, multiple: int = 8
    ) -> None:
        super().__init__()
        if multiple < 1:
            raise ValueError(f"multiple = {multiple} is no width; choose 1 or more")
        hidden = round(ratio * shape.d_model / multiple) * multiple
        if hidden < 1:
            raise ValueError(f"ratio = {ratio} with multiple = {multiple} leaves no hidden unit; raise ratio")
        if alpha <= 0:
            raise ValueError(f"alpha = {alpha:g} is no slope of a gate; choose alpha > 0 (1.702 makes it GELU-like)")
        if limit <= 0:
            raise ValueError(f"limit = {limit:g} leaves nothing between its clamps; choose limit > 0")
        self.alpha, self.limit = alpha, limit
        self.gate_proj = Linear(shape.d_model, hidden, std=shape.init_std, bias=shape.bias)
        self.up_proj = Linear(shape.d_model, hidden, std=shape.init_std, bias=shape.bias)
        self.down_proj = Linear(hidden, shape.d_model, std=shape.out_std, bias=shape.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate, up = self.gate_proj(x_BTD), self.up_proj(x_BTD)
        out: Tensor = self.down_proj(gptoss_swiglu(gate, up, self.alpha, self.limit))
        return out
