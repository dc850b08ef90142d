"""The plain block."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ablab.model.shape import Shape

Branch = Callable[[Tensor], Tensor]


class Sequential(nn.Module):
    """x + attn(x), then x + mlp(x): the plain pre-norm block.

    `enter` makes the block's input of the stream, `attn` and `mlp` are the branches with their norms.
    """

    source = "Radford et al. 2019 (GPT-2)"
    lanes = 1

    def __init__(self, shape: Shape) -> None:
        super().__init__()

    def forward(self, x_BTD: Tensor, enter: Branch, attn: Branch, mlp: Branch) -> Tensor:
        x_BTD = enter(x_BTD)
        x_BTD = x_BTD + attn(x_BTD)
        return x_BTD + mlp(x_BTD)
