"""SwiGLU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ablab.linear import Linear
from ablab.shape import Shape


class Swiglu(nn.Module):
    """down(silu(gate x) * up x). Shazeer 2020, 2002.05202.

    x_BTD -> BTD. `ratio` is the hidden width in units of d_model; its default 8/3 gives the parameters of an ungated MLP of
    ratio 4. Hidden widths are rounded to the nearest multiple of `multiple`. Raises ValueError where no unit is left.
    """

    def __init__(self, shape: Shape, *, ratio: float = 8 / 3, multiple: int = 8) -> None:
        super().__init__()
        if multiple < 1:
            raise ValueError(f"multiple = {multiple} is no width; choose 1 or more")
        hidden = round(ratio * shape.d_model / multiple) * multiple
        if hidden < 1:
            raise ValueError(f"ratio = {ratio} with multiple = {multiple} leaves no hidden unit; raise ratio")
        self.gate_proj = Linear(shape.d_model, hidden, std=shape.init_std)
        self.up_proj = Linear(shape.d_model, hidden, std=shape.init_std)
        self.down_proj = Linear(hidden, shape.d_model, std=shape.out_std)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
