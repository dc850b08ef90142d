"""Low-rank reconstruction of what rounding took: E = W - Q, kept as A B with A of two bits and B of four.

A = U_r S_r in [-2, 1] with one scale, B = V_r^T in [-8, 7] with a scale for each 64 numbers. Source: LQER (Zhang et al. 2024,
2402.02446); asymmetric factors: parameter-golf #1797.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ablab.model.parts.rounding import LEAST

A_BITS, B_BITS, GROUP = 2, 4, 64


class Factors(NamedTuple):
    """Codes A (..., R, r) and B (..., r, C), int8, and fp16 scales: a_scale (...), b_scale (..., groups of r * C)."""

    a: Tensor
    a_scale: Tensor
    b: Tensor
    b_scale: Tensor


def factors(error: Tensor, rank: int) -> Factors:
    """Return the best factors of `rank` (at most what the matrix has) of each matrix of `error`, then rounded.

    Found from the smaller of E E^T and E^T E in fp64. The sign of a pair is free: the entry of A that is largest is made
    negative, since -2 is a code and 2 is none.
    """
    wide = error.double()
    rank = min(rank, *wide.shape[-2:])
    tall = wide.shape[-2] >= wide.shape[-1]
    gram = wide.mT @ wide if tall else wide @ wide.mT
    best = torch.linalg.eigh(gram).eigenvectors[..., -rank:].flip(-1)  # by falling eigenvalue
    if tall:
        b, a = best.mT, wide @ best
    else:
        raw = best.mT @ wide
        size = raw.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        a, b = best * size.mT, raw / size
    largest = a.gather(-2, a.abs().argmax(-2, keepdim=True))
    turn = torch.where(largest > 0, -1.0, 1.0).to(a)
    return _packed(a * turn, b * turn.mT)


def _packed(a: Tensor, b: Tensor) -> Factors:
    a_scale = _step(a.flatten(-2).abs().amax(-1) / 1.5)
    a_codes = torch.round(a / a_scale.double()[..., None, None]).clamp_(-2, 1).to(torch.int8)
    grouped = _grouped(b.flatten(-2))
    b_scale = _step(grouped.abs().amax(-1) / 7.5)
    b_codes = torch.round(grouped / b_scale.double()[..., None]).clamp_(-8, 7).to(torch.int8)
    flat = b_codes.flatten(-2)[..., : b.shape[-2] * b.shape[-1]]
    return Factors(a_codes, a_scale, flat.unflatten(-1, b.shape[-2:]).contiguous(), b_scale)


def _step(reach: Tensor) -> Tensor:
    return reach.to(torch.float16).clamp(min=LEAST, max=torch.finfo(torch.float16).max)


def _grouped(flat: Tensor) -> Tensor:
    """Cut (..., N) into groups of GROUP, the last one filled with zeros."""
    out: Tensor = torch.nn.functional.pad(flat, (0, -flat.shape[-1] % GROUP)).unflatten(-1, (-1, GROUP))
    return out


def added(w: Tensor, f: Factors) -> Tensor:
    """Compute w + A B in fp64: one product of vectors after another, so that no order of summing is left to the machine."""
    a = f.a.double() * f.a_scale.double()[..., None, None]
    scaled = _grouped(f.b.double().flatten(-2)) * f.b_scale.double()[..., None]
    b = scaled.flatten(-2)[..., : f.b.shape[-2] * f.b.shape[-1]].unflatten(-1, f.b.shape[-2:])
    total = w.double()
    for r in range(a.shape[-1]):
        total = total + a[..., r, None] * b[..., None, r, :]
    return total
