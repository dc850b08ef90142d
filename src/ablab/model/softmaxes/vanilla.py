"""The plain softmax."""

from __future__ import annotations

import torch
from torch import nn

from ablab.model.shape import Shape


class Vanilla(nn.Module):
    """Attention weights sum to 1 over the visible keys."""

    source = "Vaswani et al. 2017, arXiv 1706.03762"

    def __init__(self, shape: Shape) -> None:
        super().__init__()

    def sink(self) -> torch.Tensor | None:
        """Logits (n_heads,) that compete with the keys, or None."""
        return None
