"""GRAPE-M whose phase is written by the tokens."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from ablab.core.rng import Draw
from ablab.model.parts.linear import Gate
from ablab.model.parts.pairs import running
from ablab.model.parts.rotation import frequencies
from ablab.model.parts.turns import check, turn_by
from ablab.model.positions.position import Position
from ablab.model.shape import Shape

COOLED = 16.0  # by which GRAPE's code divides the sigmoid's logit


class GrapeMContext(Position):
    """Rotary embedding by phase: a token stands at the sum of its document's earlier steps, each softplus(w.x + b) >= 0.

    Contextual GRAPE-M (arXiv 2512.07805), relative in the phase. One step for all heads; log_freq as in grape_m. w starts
    at 0, so every token steps alike. ValueError where head_dim is odd, step, theta or scale is not positive, or a sigmoid's
    step is not below 1.

    gate: softplus, as the paper has it, or sigmoid: steps sigmoid((w.x + b) / 16), as GRAPE's code has it (with scale = 1
        and qk_norm = "after"; its training also draws w anew)
    step: the step before training; default: 1 for softplus, RoPE's phases exactly, and 0.394 for sigmoid, where GRAPE's
        code starts (its comments say 1e-3, the softplus of the same b)
    theta: base of RoPE's frequencies, where they start
    scale: log_freq is kept as scale * ln(freq), as in grape_m
    """

    source = "GRAPE, arXiv 2512.07805, phase-modulated form; sigmoid: model-architectures/GRAPE"
    turns = True
    relative = True
    alike = True  # every head turns by the same angles: a decoder may turn what keys are made of

    def __init__(
        self,
        shape: Shape,
        *,
        gate: Literal["softplus", "sigmoid"] = "softplus",
        step: float | None = None,
        theta: float = 10000.0,
        scale: float = 16.0,
    ) -> None:
        super().__init__()
        self.sigmoid = gate == "sigmoid"
        if step is None:
            step = 1 / (1 + math.expm1(1e-3) ** (-1 / COOLED)) if self.sigmoid else 1.0
        check(shape.head_dim, step=step, theta=theta, scale=scale)
        if self.sigmoid and step >= 1:
            raise ValueError(f'step is {step:g}, but a sigmoid stays below 1; give step < 1, or gate = "softplus"')
        self.step, self.theta, self.scale = step, theta, scale
        self.gate = Gate(shape.d_model, 1)
        self.offset = nn.Parameter(torch.empty(1))
        self.log_freq = nn.Parameter(torch.empty(shape.head_dim // 2))

    def init(self, draw: Draw) -> None:
        """Set RoPE's frequencies and the even step; nothing is drawn."""
        with torch.no_grad():
            self.log_freq.copy_(self.scale * frequencies(2 * len(self.log_freq), self.theta).log())
            if self.sigmoid:
                self.offset.fill_(COOLED * math.log(self.step / (1 - self.step)))
            else:
                self.offset.fill_(self.step + math.log(-math.expm1(-self.step)))  # softplus of it is the step

    def place(
        self, x_BTD: torch.Tensor, pos_BT: torch.Tensor, carry: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute the phase (B, T), fp64; `carry` (B, 1) is the sum of the steps before this stretch."""
        dtype = torch.float64  # a step of 1 that rounds is a phase that drifts
        z_BT1 = self.gate(x_BTD).to(dtype) + self.offset.to(dtype)
        step_BT1 = (z_BT1 / COOLED).sigmoid() if self.sigmoid else F.softplus(z_BT1)
        after = running(step_BT1, pos_BT, carry)
        return (after - step_BT1)[..., 0], after[:, -1]

    def rotate(self, q_BTHK: torch.Tensor, k_BTGK: torch.Tensor, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.log_freq.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"log_freq is {self.log_freq.dtype}, too coarse for phases; keep it fp32 and use autocast")
        return turn_by(q_BTHK, k_BTGK, torch.exp(self.log_freq / self.scale), p)
