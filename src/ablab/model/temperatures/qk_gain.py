"""A learned gain for each head's queries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablab.core.rng import Draw
from ablab.model.shape import Shape
from ablab.model.temperatures.temperature import Temperature


class QkGain(Temperature):
    """q_h times a learned gain, one for each query head: how sharp a head attends is learned.

    It acts on top of 1/sqrt(head_dim), and not on a position bias. q_BTHK -> the same. Raises ValueError where init is not
    positive.

    init: the gain at first: 1.5 in the golf baseline, 4.0 in #1394, later 5.0 and 5.25
    """

    source = "openai/parameter-golf, QK_GAIN_INIT"

    def __init__(self, shape: Shape, *, init: float = 1.5) -> None:
        super().__init__()
        if init <= 0:
            raise ValueError(f"init = {init:g} turns attention off or around; choose init > 0")
        self.start = init
        self.gain_H = nn.Parameter(torch.empty(shape.n_heads))

    def init(self, draw: Draw) -> None:
        nn.init.constant_(self.gain_H, self.start)

    def forward(self, q_BTHK: Tensor) -> Tensor:
        return q_BTHK * self.gain_H.to(q_BTHK.dtype)[:, None]
