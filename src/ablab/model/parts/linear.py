"""Learned matrices: the one product, through which every learned matrix of the model acts, and rows that are looked up."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablab.core.rng import Draw
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


class Gate(Linear):
    """A small matrix that makes gates, not features: zero-initialised by default, and never orthogonalised. Role `scalar`."""

    role = "scalar"

    def __init__(self, d_in: int, d_out: int, *, std: float = 0.0) -> None:
        super().__init__(d_in, d_out, std=std)

    def init(self, draw: Draw) -> None:
        draw.normal_(self.weight, "weight", self.std)


class Table(Part):
    """index -> weight[index], weight (rows, size) drawn N(0, std^2). Role `embedding`: never orthogonalised."""

    role = "embedding"

    def __init__(self, rows: int, size: int, *, std: float) -> None:
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(rows, size))

    def init(self, draw: Draw) -> None:
        draw.normal_(self.weight, "weight", self.std)

    def forward(self, index: Tensor) -> Tensor:
        return F.embedding(index, self.weight)
