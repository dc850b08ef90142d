"""GRAPE-M in a learned basis."""

from __future__ import annotations

import torch
from torch import nn

from ablab.core.rng import Draw
from ablab.model.parts.rotation import frequencies, turn
from ablab.model.parts.turns import check
from ablab.model.positions.position import Position
from ablab.model.shape import Shape


class GrapeMBasis(Position):
    """Rotary embedding in learned planes: into an orthogonal basis E, turned there, and back.

    The generator is sum_j freq_j (e_{j+K/2} e_j^T - e_j e_{j+K/2}^T): its planes commute, so scores are relative. E is the
    Cayley transform (1 - S)^-1 (1 + S) of a skew matrix S: orthogonal whatever is learned (without the eigenvalue -1). S
    starts at 0, where the lever is grape_m. One basis and one log_freq for all heads of a layer. ValueError where head_dim
    is odd, or theta or scale is not positive.

    theta: base of RoPE's frequencies, where they start
    scale: log_freq is kept as scale * ln(freq), as in grape_m
    """

    source = "GRAPE, arXiv 2512.07805, learned basis"
    turns = True
    relative = True
    alike = True  # every head turns by the same angles: a decoder may turn what keys are made of

    def __init__(self, shape: Shape, *, theta: float = 10000.0, scale: float = 16.0) -> None:
        super().__init__()
        check(shape.head_dim, theta=theta, scale=scale)
        self.theta, self.scale, self.width = theta, scale, shape.head_dim
        self.log_freq = nn.Parameter(torch.empty(shape.head_dim // 2))
        self.skew = nn.Parameter(torch.empty(shape.head_dim * (shape.head_dim - 1) // 2))

    def init(self, draw: Draw) -> None:
        """Set RoPE's frequencies and the canonical planes; nothing is drawn."""
        with torch.no_grad():
            self.log_freq.copy_(self.scale * frequencies(self.width, self.theta).log())
            self.skew.zero_()

    def basis(self) -> torch.Tensor:
        """Return E (K, K), fp64: its columns are the axes of the planes."""
        above = torch.ones(self.width, self.width, dtype=torch.bool, device=self.skew.device).triu(1)
        upper = torch.zeros(above.shape, dtype=torch.float64, device=self.skew.device)
        upper = upper.masked_scatter(above, self.skew.to(upper.dtype))
        skew, one = upper - upper.t(), torch.eye(self.width, dtype=upper.dtype, device=upper.device)
        out: torch.Tensor = torch.linalg.solve(one - skew, one + skew)
        return out

    def rotate(self, q_BTHK: torch.Tensor, k_BTGK: torch.Tensor, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.log_freq.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"log_freq is {self.log_freq.dtype}, too coarse for phases; keep it fp32 and use autocast")
        given, wide = q_BTHK.dtype, torch.promote_types(q_BTHK.dtype, torch.float32)
        with torch.autocast(q_BTHK.device.type, enabled=False):  # a basis in bf16 is not orthogonal
            into = self.basis().to(wide)
            q, k = q_BTHK.to(wide) @ into, k_BTGK.to(wide) @ into
            q, k = turn(q, k, torch.exp(self.log_freq / self.scale), p)
            return (q @ into.t()).to(given), (k @ into.t()).to(given)
