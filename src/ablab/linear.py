"""The one matrix product, through which every learned matrix of the model acts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ablab.rng import Draw


class Linear(nn.Module):
    """y = x W^T, weight (d_out, d_in) drawn N(0, std^2). Role `matrix`: one logical matrix, one random stream."""

    role = "matrix"

    def __init__(self, d_in: int, d_out: int, *, std: float) -> None:
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(d_out, d_in))

    def init(self, draw: Draw) -> None:
        draw.normal_(self.weight, "weight", self.std)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight)
