"""The plain scale."""

from __future__ import annotations

from torch import Tensor, nn

from ablab.model.shape import Shape


class Constant(nn.Module):
    """Scores are scaled by 1/sqrt(head_dim) alone."""

    source = "Vaswani et al. 2017, arXiv 1706.03762"

    def __init__(self, shape: Shape) -> None:
        super().__init__()

    def forward(self, q_BTHK: Tensor) -> Tensor:
        return q_BTHK
