"""Hadamard rotation of a matrix's inputs, and what it does to the tails of its rows.

W' = (W * signs) H / sqrt(n) along the inputs, n a power of two, signs drawn once per tensor: outliers are spread over a row.
Additions of pairs in fp64, never a matrix product: the way back gives the same numbers on any number of threads.
Source: QuIP# (Tseng et al. 2024, 2402.04396); parameter-golf #1718, where weights trained by Muon gained nothing from it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ablab.core.rng import stream
from ablab.model.parts.rounding import Per, rounded

SHOWN_BITS = (5, 6, 7, 8)


def fits(columns: int) -> bool:
    """Tell whether there is a rotation of this width: powers of two from 2 on."""
    return columns > 1 and columns & (columns - 1) == 0


def signs(name: str, columns: int) -> Tensor:
    """Draw +1 or -1 for each input of tensor `name`, fp64."""
    return torch.from_numpy(2.0 * stream(0, "hadamard", name).integers(0, 2, columns) - 1.0)


def transform(x: Tensor) -> Tensor:
    """Compute x H / sqrt(n) along the last dimension, fp64; its own inverse up to rounding."""
    n, half, y = x.shape[-1], 1, x.double()
    while half < n:
        one, other = y.unflatten(-1, (n // (2 * half), 2, half)).unbind(-2)
        y = torch.stack([one + other, one - other], -2).flatten(-3)
        half *= 2
    out: Tensor = y / n**0.5
    return out


def rotated(w: Tensor, signs_C: Tensor) -> Tensor:
    """Rotate the matrix (..., R, C) for rotated inputs, fp64."""
    return transform(w.double() * signs_C)


def unrotated(w: Tensor, signs_C: Tensor) -> Tensor:
    """Rotate the matrix back for the inputs as they are, fp64."""
    return transform(w) * signs_C


def of_inputs(h_CC: Tensor, signs_C: Tensor) -> Tensor:
    """Return the Hessian (..., C, C) of rotated inputs, fp64."""
    half = transform(h_CC.double() * signs_C * signs_C[:, None])
    return transform(half.mT).mT


def kurtosis(w: Tensor) -> float:
    """Average over rows the fourth moment over the squared variance; 3 for normal numbers. Rows of equal numbers stay out."""
    off = w.double() - w.double().mean(-1, keepdim=True)
    variance = off.square().mean(-1)
    alive = variance > 0
    return float((off.pow(4).mean(-1)[alive] / variance[alive].square()).mean()) if bool(alive.any()) else 0.0


def errors(w: Tensor, sigmas: float, per: Per) -> dict[str, float]:
    """Measure the mean square of what rounding to nearest takes from w, by number of bits."""
    wide = w.double()
    return {
        f"int{bits}": float((rounded(wide, bits, sigmas=sigmas, per=per) - wide).square().mean()) for bits in SHOWN_BITS
    }
