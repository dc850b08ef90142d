"""Values mixed with the first layer's."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ablab.core.rng import Draw
from ablab.model.shape import Shape
from ablab.model.values.value import Value


class Residual(Value):
    """v = lam v + (1 - lam) v1, v1 the first layer's values, lam one learned number a layer.

    The first layer has no parameter. v_BTGK, first_BTGK -> v_BTGK.

    init: lam at first
    form: linear: lam itself is the parameter; at init = 1 the layer starts as if it had no mix and still learns at the full
        rate. sigmoid (Megatron): lam = sigmoid(logit), where init beyond [0.01, 0.99] is refused because the slope lam (1 -
        lam) leaves nothing to learn with (at 0.9999 it is 1e-4: Adam at 1e-3 needs 9000 steps of one sign to reach 0.5)
    """

    source = "Zhou et al. 2024, arXiv 2410.17897; Megatron fork vpMoE, value-residual"

    def __init__(self, shape: Shape, *, init: float = 0.5, form: Literal["linear", "sigmoid"] = "linear") -> None:
        super().__init__()
        if form == "sigmoid" and not 0.01 <= init <= 0.99:
            raise ValueError(
                f"init = {init:g} saturates the sigmoid, so the mix could hardly learn; "
                'choose 0.01 to 0.99, or form = "linear"'
            )
        self.start = init if form == "linear" else math.log(init / (1 - init))
        self.sigmoid = form == "sigmoid"
        self.mix = nn.Parameter(torch.empty(())) if shape.layer != 0 else None

    def init(self, draw: Draw) -> None:
        if self.mix is not None:
            nn.init.constant_(self.mix, self.start)

    def forward(self, v_BTGK: Tensor, first_BTGK: Tensor | None) -> Tensor:
        if self.mix is None:
            return v_BTGK
        if first_BTGK is None:
            raise ValueError("the first layer's values are missing; hand over v of layer 0")
        lam = self.mix.sigmoid() if self.sigmoid else self.mix
        return v_BTGK + (1 - lam) * (first_BTGK - v_BTGK)  # so bf16 rounds the mix, not 1 minus the mix
