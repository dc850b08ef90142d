"""RMS normalisation of the last dimension; others are in `ablab.model.parts.norms`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablab.core.rng import Draw
from ablab.model.parts.context import Context, in_type
from ablab.model.parts.part import Part


class Norm(Part):
    """RMSNorm over the last dimension with a learned weight. Zhang and Sennrich 2019, 1910.07467. Role `scalar`."""

    role = "scalar"

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size))

    def init(self, draw: Draw) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda:  # there torch's own is one kernel
            return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)
        return rms(x, self.weight, self.eps)


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide by the root mean square, then multiply by the weight."""
    if torch.is_grad_enabled():
        normed: Tensor = _RmsNorm.apply(x, weight, eps)
        return normed
    return _unit(x, eps)[0].mul_(weight).to(x.dtype)  # the same numbers; apply alone doubles the time of a decode step


def _unit(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Divide x by its root mean square, in fp32 or better; returns one over that root, too."""
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return wide * scale, scale


class _RmsNorm(torch.autograd.Function):
    """Written out because torch's CPU rms_norm is differentiated operation by operation: 3 times slower at d_model 128.

    bf16 input is normalised in fp32; the result has the input's type.
    """

    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed, scale = _unit(x, eps)
        ctx.save_for_backward(normed, scale, weight)
        return in_type(normed * weight, x.dtype)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        normed, scale, weight = ctx.saved_tensors
        size = normed.shape[-1]
        product = (grad * normed).reshape(-1, size)
        by_weight = product.sum(0) if ctx.needs_input_grad[1] else None
        inner = torch.mv(product, weight).div_(size).view(scale.shape)
        by_x = (grad * weight).addcmul_(normed, inner, value=-1).mul_(scale)
        return by_x.to(grad.dtype), by_weight, None
