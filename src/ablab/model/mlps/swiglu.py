"""SwiGLU."""

from __future__ import annotations

from torch import Tensor

from ablab.model.mlps.activations import swiglu
from ablab.model.mlps.mlp import Mlp
from ablab.model.parts.linear import Linear
from ablab.model.shape import Shape


class Swiglu(Mlp):
    """down(silu(gate x) * up x).

    x_BTD -> BTD. Raises ValueError where no unit is left.

    ratio (d_model): hidden width; 8/3 gives the parameters of an ungated MLP of ratio 4
    multiple (units): hidden widths are rounded to the nearest multiple
    """

    source = "Shazeer 2020, arXiv 2002.05202"

    def __init__(self, shape: Shape, *, ratio: float = 8 / 3, multiple: int = 8) -> None:
        super().__init__()
        if multiple < 1:
            raise ValueError(f"multiple = {multiple} is no width; choose 1 or more")
        hidden = round(ratio * shape.d_model / multiple) * multiple
        if hidden < 1:
            raise ValueError(f"ratio = {ratio} with multiple = {multiple} leaves no hidden unit; raise ratio")
        self.gate_proj = Linear(shape.d_model, hidden, std=shape.init_std, bias=shape.bias)
        self.up_proj = Linear(shape.d_model, hidden, std=shape.init_std, bias=shape.bias)
        self.down_proj = Linear(hidden, shape.d_model, std=shape.out_std, bias=shape.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out: Tensor = self.down_proj(swiglu(self.gate_proj(x_BTD), self.up_proj(x_BTD)))
        return out
