"""GRAPE-M: rotations whose frequencies are learned."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from ablab.core.rng import Draw
from ablab.model.parts.rotation import frequencies, turn
from ablab.model.parts.turns import check
from ablab.model.positions.position import Position
from ablab.model.shape import Shape


class GrapeM(Position):
    """Rotary embedding with learned frequencies, started at RoPE's.

    Raises ValueError where head_dim is odd, or theta or scale is not positive.

    learnable: frequencies are learned; false fixes them
    per_head: own frequencies for every kv head, (n_kv_heads, head_dim/2); the heads of a group share them, because queries
        and keys must turn alike for scores to depend on distance alone
    theta: base of RoPE's frequencies, where they start
    scale: log_freq is kept as scale * ln(freq), fp32: under Adam a step of lr moves ln(freq) by about lr / scale
    share: net has one log_freq for the whole network (as Megatron does), layer one for every layer
    """

    source = "GRAPE, arXiv 2512.07805, commuting GRAPE-M; Megatron fork vpMoE, grapem"
    turns = True
    relative = True
    log_freq: torch.Tensor

    def __init__(
        self,
        shape: Shape,
        *,
        learnable: bool = True,
        per_head: bool = False,
        theta: float = 10000.0,
        scale: float = 16.0,
        share: Literal["layer", "net"] = "layer",
    ) -> None:
        super().__init__()
        check(shape.head_dim, theta=theta, scale=scale)
        if share not in ("layer", "net"):
            raise ValueError(f"share is '{share}'; give 'layer' or 'net'")
        self.theta, self.scale, self.share = theta, scale, share
        log_freq = torch.empty((shape.n_kv_heads, shape.head_dim // 2) if per_head else (shape.head_dim // 2,))
        if learnable:
            self.log_freq = nn.Parameter(log_freq)
        else:
            self.register_buffer("log_freq", log_freq, persistent=False)

    def init(self, draw: Draw) -> None:
        """Set RoPE's frequencies; nothing is drawn."""
        with torch.no_grad():
            freq = frequencies(2 * self.log_freq.shape[-1], self.theta)
            self.log_freq.copy_((self.scale * freq.log()).expand(self.log_freq.shape))

    @property
    def alike(self) -> bool:
        """Every head turns by the same angles: a decoder may turn what keys are made of."""
        return self.log_freq.dim() == 1

    def rotate(self, q_BTHK: torch.Tensor, k_BTGK: torch.Tensor, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.log_freq.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"log_freq is {self.log_freq.dtype}, too coarse for phases; keep it fp32 and use autocast")
        return turn(q_BTHK, k_BTGK, torch.exp(self.log_freq / self.scale), p)
