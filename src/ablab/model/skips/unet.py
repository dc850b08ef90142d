"""U-Net skips."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablab.core.rng import Draw
from ablab.model.shape import Shape
from ablab.model.skips.skips import Skips


class Unet(Skips):
    """The output of each layer of the first half returns in the second, last out first in.

    Layers count as they are met, loops unrolled: with an odd number the middle one belongs to the second half and gets a
    skip, the last layer none. Two lanes: the skip returns to the first. Raises ValueError for a single layer.

    gated: x = s x + (1 - s) w skip with s = sigmoid(g) and w, g learned per channel from 1 and 0 (half and half); else x +
        w skip
    """

    source = "Ronneberger et al. 2015, arXiv 1505.04597; openai/parameter-golf #1493"

    def __init__(self, shape: Shape, *, gated: bool = True) -> None:
        super().__init__()
        n = shape.n_passes // 2
        if n < 1:
            raise ValueError("one layer has no second half; use two layers or more, or skips = none")
        self.weight_nD = nn.Parameter(torch.empty(n, shape.d_model))
        self.gate_nD = nn.Parameter(torch.empty(n, shape.d_model)) if gated else None

    def init(self, draw: Draw) -> None:
        """Set the constants; nothing is drawn."""
        nn.init.ones_(self.weight_nD)
        if self.gate_nD is not None:
            nn.init.zeros_(self.gate_nD)

    def before(self, x: Tensor, step: int, n_steps: int, kept: list[Tensor]) -> Tensor:
        """Return what layer `step` of `n_steps` reads; takes the newest of `kept`."""
        n = step - n_steps // 2
        if n < 0 or not kept:
            return x
        if x.dim() == 4:  # two lanes
            return torch.stack([self._joined(x[0], n, kept.pop()), x[1]])
        return self._joined(x, n, kept.pop())

    def _joined(self, x_BTD: Tensor, n: int, skip: Tensor) -> Tensor:
        skip_BTD = self.weight_nD[n].to(x_BTD.dtype) * (skip[0] if skip.dim() == 4 else skip)
        if self.gate_nD is None:
            return x_BTD + skip_BTD
        return torch.lerp(skip_BTD, x_BTD, torch.sigmoid(self.gate_nD[n]).to(x_BTD.dtype).expand_as(x_BTD))

    def after(self, x: Tensor, step: int, n_steps: int, kept: list[Tensor]) -> None:
        """Keep what a layer of the first half gave."""
        if step < n_steps // 2:
            kept.append(x)
