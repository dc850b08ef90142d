"""The stream mixed with the embedding at each layer's entry."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablab.core.rng import Draw
from ablab.model.residuals.stream import ResidualStream
from ablab.model.shape import Shape


class Mix(ResidualStream):
    """A layer's input is m0 x + m1 x0, x0 the embedded tokens, m0 and m1 learned per channel.

    m0 is 1 and m1 is 0 at first; Parameter Golf calls them resid_mix. BTD -> BTD.
    """

    source = "modded-nanogpt, 2024; openai/parameter-golf, resid_mix"

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.stream_D = nn.Parameter(torch.empty(shape.d_model))
        self.first_D = nn.Parameter(torch.empty(shape.d_model))

    def init(self, draw: Draw) -> None:
        nn.init.ones_(self.stream_D)
        nn.init.zeros_(self.first_D)

    def enter(self, x_BTD: Tensor, x0_BTD: Tensor) -> Tensor:
        stream_D, first_D = self.stream_D.to(x_BTD.dtype), self.first_D.to(x_BTD.dtype)
        return torch.addcmul(stream_D * x_BTD, first_D, x0_BTD.to(x_BTD.dtype))
