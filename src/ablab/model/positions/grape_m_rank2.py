"""GRAPE-M with one learned plane."""

from __future__ import annotations

import torch
from torch import nn

from ablab.core.rng import Draw
from ablab.model.parts.turns import check
from ablab.model.positions.position import Position
from ablab.model.shape import Shape


class GrapeMRank2(Position):
    """Rotation in one learned plane by the rank-2 generator L = a b^T - b a^T: y = exp(n omega L) x.

    By Rodrigues' formula: inside span{a, b} x turns by n omega s, s = sqrt(|a|^2 |b|^2 - (a.b)^2), outside it stays. a, b
    start as a random orthonormal pair (s = 1); they are kept fp32. L turns e_1 towards -e_2 for a = e_1, b = e_2.
    ValueError where omega is not positive or head_dim is below 2.

    omega (radians): the angle of a step at first
    per_head: own a, b for every kv head (n_kv_heads, head_dim); otherwise all heads of the layer share them
    """

    source = "GRAPE, arXiv 2512.07805, rank-2 generator"
    turns = True
    relative = True

    def __init__(self, shape: Shape, *, omega: float = 1.0, per_head: bool = False) -> None:
        super().__init__()
        check(2, omega=omega)
        if shape.head_dim < 2:
            raise ValueError(f"head_dim is {shape.head_dim}, but a plane needs two channels; make head_dim 2 or more")
        self.omega = omega
        size = (shape.n_kv_heads if per_head else 1, shape.head_dim)
        self.a_GK, self.b_GK = nn.Parameter(torch.empty(size)), nn.Parameter(torch.empty(size))

    def init(self, draw: Draw) -> None:
        draw.normal_(self.a_GK, "a_GK", 1.0)
        draw.normal_(self.b_GK, "b_GK", 1.0)
        with torch.no_grad():
            a, b = self.a_GK.double(), self.b_GK.double()
            a = a / a.norm(dim=-1, keepdim=True)
            b = b - (a * b).sum(-1, keepdim=True) * a
            self.a_GK.copy_(a), self.b_GK.copy_(b / b.norm(dim=-1, keepdim=True))

    @property
    def alike(self) -> bool:
        """Every head turns in the same plane: a decoder may turn what keys are made of."""
        return len(self.a_GK) == 1

    def rotate(self, q_BTHK: torch.Tensor, k_BTGK: torch.Tensor, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.a_GK.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"a is {self.a_GK.dtype}, too coarse for phases; keep it fp32 and use autocast")
        return self._turned(q_BTHK, p), self._turned(k_BTGK, p)

    def _turned(self, x_BTHK: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        """Compute x + f1 L x + f2 L^2 x, with L x = a <b, x> - b <a, x>."""
        wide = torch.promote_types(x_BTHK.dtype, torch.float32)
        a, b = (t.to(torch.float64).repeat_interleave(self._group(x_BTHK), 0) for t in (self.a_GK, self.b_GK))
        aa, bb, ab = (a * a).sum(-1), (b * b).sum(-1), (a * b).sum(-1)
        f1, f2 = (
            f.to(wide)[..., None] for f in rodrigues(self.omega * p.to(torch.float64)[..., None], aa * bb - ab**2)
        )
        x, a, b = x_BTHK.to(wide), a.to(wide), b.to(wide)
        aa, bb, ab = (t.to(wide)[:, None] for t in (aa, bb, ab))
        u, v = (x * a).sum(-1, keepdim=True), (x * b).sum(-1, keepdim=True)
        once = a * v - b * u
        twice = ab * (a * v + b * u) - bb * a * u - aa * b * v
        return (x + f1 * once + f2 * twice).to(x_BTHK.dtype)

    def _group(self, x_BTHK: torch.Tensor) -> int:
        return 1 if len(self.a_GK) == 1 else x_BTHK.shape[2] // len(self.a_GK)


def rodrigues(t: torch.Tensor, ss: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute f1 = sin(t s) / s and f2 = (1 - cos(t s)) / s^2 from s^2, by their series where t s is small."""
    zz = (t * t * ss).clamp(min=0)  # rounding can make s^2 of a parallel pair negative
    small = zz < 1e-2
    z = torch.where(small, 1.0, zz).sqrt()  # kept off 0, where the root has no slope
    sinc = torch.where(small, 1 - zz / 6 + zz**2 / 120 - zz**3 / 5040 + zz**4 / 362880, z.sin() / z)
    half = torch.where(
        small, 1 / 2 - zz / 24 + zz**2 / 720 - zz**3 / 40320 + zz**4 / 3628800, 2 * (z / 2).sin() ** 2 / z**2
    )
    return t * sinc, t * t * half
