"""Learned gains on what a branch writes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ablab.core.rng import Draw
from ablab.model.residuals.stream import ResidualStream
from ablab.model.shape import Shape


class BranchScale(ResidualStream):
    """Each branch's output times a learned gain per channel, `init` at first.

    One vector for attention, one for the MLP (attn_scale and mlp_scale of Parameter Golf; LayerScale starts near 0). BTD ->
    BTD. Raises ValueError where init is 0: the branch itself would get no gradient.

    init: every gain at first; 1 in Parameter Golf
    """

    source = "Touvron et al. 2021 (LayerScale), arXiv 2103.17239; openai/parameter-golf"

    def __init__(self, shape: Shape, *, init: float = 1.0) -> None:
        super().__init__()
        if init == 0:
            raise ValueError("init = 0 gives the branch no gradient; choose a small number such as 1e-4")
        self.start = init
        self.attn_D = nn.Parameter(torch.empty(shape.d_model))
        self.mlp_D = nn.Parameter(torch.empty(shape.d_model))

    def init(self, draw: Draw) -> None:
        nn.init.constant_(self.attn_D, self.start)
        nn.init.constant_(self.mlp_D, self.start)

    def out(self, y_BTD: Tensor, branch: Literal["attn", "mlp"]) -> Tensor:
        gain_D = self.attn_D if branch == "attn" else self.mlp_D
        return y_BTD * gain_D.to(y_BTD.dtype)
