"""A learned attention sink."""

from __future__ import annotations

import torch
from torch import nn

from ablab.core.rng import Draw
from ablab.model.shape import Shape
from ablab.model.softmaxes.softmax import Softmax


class Sink(Softmax):
    """A learned logit for each head competes with the keys.

    The logit is neither scaled by 1/sqrt(head_dim) nor shifted by a position bias.

    init_std: standard deviation of the logits at first
    """

    source = "OpenAI gpt-oss, 2025; Megatron-LM softmax-type learnable"

    def __init__(self, shape: Shape, *, init_std: float = 0.02) -> None:
        super().__init__()
        if init_std < 0:
            raise ValueError(f"init_std is {init_std:g}; give init_std >= 0")
        self.init_std = init_std
        self.sink_H = nn.Parameter(torch.empty(shape.n_heads))

    def init(self, draw: Draw) -> None:
        draw.normal_(self.sink_H, "sink_H", self.init_std)

    def sink(self) -> torch.Tensor | None:
        """Return the logits (n_heads,)."""
        return self.sink_H
