"""Normalisations by name: RMS with a weight, RMS without, LayerNorm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablab.core.rng import Draw
from ablab.model.parts.norm import Norm, rms
from ablab.model.parts.part import Part


class Bare(Part):
    """RMSNorm without a weight (modded-nanogpt, parameter-golf)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("one", torch.empty(size), persistent=False)

    one: Tensor

    def init(self, draw: Draw) -> None:
        self.one.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda:
            return F.rms_norm(x, self.one.shape, None, self.eps)
        return rms(x, self.one, self.eps)


class LayerNorm(Part):
    """Mean and variance removed, then a learned weight and bias (Ba et al. 2016, 1607.06450). Role `scalar`."""

    role = "scalar"

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size))
        self.bias = nn.Parameter(torch.empty(size))

    def init(self, draw: Draw) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        return F.layer_norm(wide, self.weight.shape, self.weight, self.bias, self.eps).to(x.dtype)


NORMS: dict[str, type[Norm | Bare | LayerNorm]] = {"rms": Norm, "bare": Bare, "layer": LayerNorm}
