"""Symmetric rounding of matrices to few bits: the one rule that compressors and quantisation-aware training share.

scale = k * std(row) / (2^(b-1) - 1), or the row's largest magnitude over the same, kept in fp16 (fp32 beyond 10 bits);
code = round(w / scale) clamped to +-(2^(b-1) - 1). Source: parameter-golf, PR #1394 (SDClip).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Per = Literal["row", "tensor"]
LEAST, MOST_BITS = 2.0**-24, 16  # the smallest fp16 above 0: no row divides by zero
LEAST_SIGMAS = 0.1  # a narrower clip leaves of a normal row less than a hundredth of its square


def kept(bits: int) -> torch.dtype:
    """Return the type of a stored scale: fp16; beyond 10 bits its own rounding would cost more than the codes save."""
    return torch.float16 if bits <= 10 else torch.float32


def most(bits: int) -> int:
    """Return the largest code of `bits` bits: 2^(bits-1) - 1."""
    out: int = 2 ** (bits - 1) - 1
    return out


def check_bits(**settings: int | None) -> None:
    """Refuse the first number of bits that is not within 2 to 16; None passes."""
    for name, bits in settings.items():
        if bits is not None and not 2 <= bits <= MOST_BITS:
            raise ValueError(f"{name} = {bits} cannot hold a signed code; choose 2 to {MOST_BITS}")


def check_sigmas(**settings: float | None) -> None:
    """Refuse the first clip so narrow that next to nothing is left; None, and 0 (no clip), pass."""
    for name, value in settings.items():
        if value and value < LEAST_SIGMAS:
            fault = f"{name} = {value:g} clips nearly everything away"
            raise ValueError(f"{fault}; choose {LEAST_SIGMAS} or more, 12.85 as usual for 6 bits")


def scales(w: Tensor, bits: int, *, sigmas: float = 0.0, per: Per = "row") -> Tensor:
    """Return the step of each row (..., R, 1), or of each matrix (..., 1, 1): as stored (`kept`), in w's type.

    sigmas: the clip in standard deviations of the row; 0 clips nothing (the largest magnitude is the largest code).
    """
    over = (-1,) if per == "row" else (-2, -1)
    if sigmas:
        reach = sigmas * w.double().std(dim=over, keepdim=True, correction=0)
    else:
        reach = w.double().abs().amax(dim=over, keepdim=True)
    step = (reach / most(bits)).to(kept(bits)).clamp(min=LEAST, max=torch.finfo(torch.float16).max)
    return step.to(w.dtype)


def codes(w: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Compute round(w / scale), half to even, clamped: int8 up to 8 bits, int16 above."""
    reach = most(bits)
    kind = torch.int8 if bits <= 8 else torch.int16
    return torch.round(w / scale).clamp_(-reach, reach).to(kind)


def rounded(w: Tensor, bits: int, *, sigmas: float = 0.0, per: Per = "row") -> Tensor:
    """Round the matrix to the grid of its scale, in w's type."""
    scale = scales(w, bits, sigmas=sigmas, per=per)
    return codes(w, scale, bits).to(w.dtype) * scale
