"""Rows of learned vectors that are looked up, not multiplied."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablab.core.rng import Draw
from ablab.model.parts.part import Part


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
