"""Root mean square normalisation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablab.rng import Draw


class Norm(nn.Module):
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
        return _RmsNorm.apply(x, self.weight, self.eps)


class _RmsNorm(torch.autograd.Function):
    """Written out because torch's CPU rms_norm is differentiated operation by operation: 3 times slower at d_model 128.

    bf16 input is normalised in fp32; the result has the input's type.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        normed = wide * scale
        ctx.save_for_backward(normed, scale, weight)
        return (normed * weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, scale, weight = ctx.saved_tensors
        size = normed.shape[-1]
        product = (grad * normed).reshape(-1, size)
        by_weight = product.sum(0)
        inner = torch.mv(product, weight).div_(size).view(scale.shape)
        by_x = (grad * weight).addcmul_(normed, inner, value=-1).mul_(scale)
        return by_x.to(grad.dtype), by_weight, None
