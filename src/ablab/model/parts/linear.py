"""The one matrix product, through which every learned matrix of the model acts: alone or as a stack of equals."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from ablab.core.rng import Draw
from ablab.model.parts.grouped import product
from ablab.model.parts.part import Part


class Linear(Part):
    """y = x W^T (+ b), weight (d_out, d_in) drawn N(0, std^2), bias 0. Role `matrix`: one logical matrix, one stream.

    The bias is a vector: optimizers by role treat every parameter below two dimensions as a scalar. `adapter`, where one is
    set, takes x and y and gives what stands for y: how test-time training adapts a matrix without touching it.
    """

    role = "matrix"
    adapter: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    def __init__(self, d_in: int, d_out: int, *, std: float, bias: bool = False) -> None:
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(d_out, d_in))
        self.bias = nn.Parameter(torch.empty(d_out)) if bias else None

    def init(self, draw: Draw) -> None:
        draw.matrix_(self.weight, "weight", self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(x, self.weight, self.bias)
        return y if self.adapter is None else self.adapter(x, y)


class Stacked(Part):
    """n matrices of one size, weight (n, d_out, d_in), bias (n, d_out): the experts of a mixture. Role `matrix`.

    Each matrix is one logical matrix with its own stream (`weight.0`, `weight.1`, ...), so that adding an expert leaves
    the others' draws unchanged. How rows find their matrix is the owner's business: they come sorted.
    """

    role = "matrix"

    def __init__(self, n: int, d_in: int, d_out: int, *, std: float, bias: bool = False) -> None:
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(n, d_out, d_in))
        self.bias = nn.Parameter(torch.empty(n, d_out)) if bias else None

    def init(self, draw: Draw) -> None:
        for i, matrix in enumerate(self.weight.unbind(0)):
            draw.matrix_(matrix, f"weight.{i}", self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x_RI: torch.Tensor, ends_E: torch.Tensor, scale_R: torch.Tensor | None = None) -> torch.Tensor:
        """Multiply rows by their own matrices; rows sorted, `ends_E` their running count, `scale_R` weights of their bias."""
        return product(x_RI, self.weight, self.bias, ends_E, scale_R)


class Gate(Linear):
    """A small matrix that makes gates, not features: zero-initialised by default, and never orthogonalised. Role `scalar`."""

    role = "scalar"

    def __init__(self, d_in: int, d_out: int, *, std: float = 0.0) -> None:
        super().__init__(d_in, d_out, std=std)

    def init(self, draw: Draw) -> None:
        draw.normal_(self.weight, "weight", self.std)
