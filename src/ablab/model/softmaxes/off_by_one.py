"""Softmax with one silent key."""

from __future__ import annotations

import torch

from ablab.core.rng import Draw
from ablab.model.shape import Shape
from ablab.model.softmaxes.softmax import Softmax


class OffByOne(Softmax):
    """A fixed logit 0 competes with the keys: exp(z_j) / (1 + sum exp(z))."""

    source = "Miller 2023, Attention is off by one; Megatron-LM softmax-type off-by-one"
    zero_H: torch.Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.register_buffer("zero_H", torch.empty(shape.n_heads), persistent=False)

    def init(self, draw: Draw) -> None:
        self.zero_H.zero_()

    def sink(self) -> torch.Tensor | None:
        """Return zeros (n_heads,)."""
        return self.zero_H
