"""What stands between the two products of an MLP: one function each, shared by plain MLPs and experts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ablab.model.mlps.relu2 import relu2


def leaky_relu2(h: Tensor, slope: float = 0.5) -> Tensor:
    """Compute leaky_relu(h)^2: slope^2 h^2 below zero, never negative. Parameter Golf submissions, 2026."""
    return F.leaky_relu(h, slope).square()


def gelu(h: Tensor) -> Tensor:
    """Compute GELU with the tanh approximation, as GPT-2 has it. Hendrycks and Gimpel 2016, 1606.08415, section 2."""
    return F.gelu(h, approximate="tanh")


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Compute silu(gate) * up. Shazeer 2020, 2002.05202."""
    return F.silu(gate) * up


def gptoss_swiglu(gate: Tensor, up: Tensor, alpha: float = 1.702, limit: float = 7.0) -> Tensor:
    """Compute (up + 1) gate sigmoid(alpha gate), gate cut above and up on both sides at `limit`. gpt-oss, 2508.10925."""
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return (up + 1) * (gate * torch.sigmoid(alpha * gate))


PLAIN = {"relu2": relu2, "leaky_relu2": leaky_relu2, "gelu": gelu}  # of one product


GATED = {"swiglu": swiglu, "gptoss_swiglu": gptoss_swiglu}  # of two: gate, up
