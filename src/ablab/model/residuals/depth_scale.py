"""Branch inputs that shrink with depth."""

from __future__ import annotations

from torch import Tensor

from ablab.model.residuals.stream import ResidualStream
from ablab.model.shape import Shape


class DepthScale(ResidualStream):
    """A branch's input, after its norm, times 1 / sqrt(layer + 1), layer from 0.

    Layer 0 is unchanged. Parameter Golf has it too (LN scale). BTD -> BTD.
    """

    source = "Sun et al. 2025, arXiv 2502.05795; openai/parameter-golf"

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.scale = (max(shape.layer, 0) + 1) ** -0.5

    def into(self, h_BTD: Tensor) -> Tensor:
        return h_BTD * self.scale if self.scale != 1 else h_BTD
