"""Branch inputs that shrink with depth."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ablab.model.shape import Shape


class DepthScale(nn.Module):
    """A branch's input, after its norm, times 1 / sqrt(layer + 1), layer from 0.

    Layer 0 is unchanged. Parameter Golf has it too (LN scale). BTD -> BTD.
    """

    source = "Sun et al. 2025, arXiv 2502.05795; openai/parameter-golf"

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.scale = (max(shape.layer, 0) + 1) ** -0.5

    def enter(self, x_BTD: Tensor, x0_BTD: Tensor) -> Tensor:
        return x_BTD

    def into(self, h_BTD: Tensor) -> Tensor:
        return h_BTD * self.scale if self.scale != 1 else h_BTD

    def out(self, y_BTD: Tensor, branch: Literal["attn", "mlp"]) -> Tensor:
        return y_BTD
