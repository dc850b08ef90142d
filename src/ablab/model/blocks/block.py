"""What every block is: how a layer joins attention and mlp to the stream."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ablab.core.lever import Sized
from ablab.model.parts.part import Part

Branch = Callable[[Tensor], Tensor]


class Block(Part, Sized):
    """x + attn(x), then x + mlp(x): the plain pre-norm block.

    `enter` makes the block's input of the stream, `attn` and `mlp` are the branches with their norms. `lanes`: 2 where the
    stream comes as two, (2, B, T, D).
    """

    lanes = 1

    def forward(self, x: Tensor, enter: Branch, attn: Branch, mlp: Branch) -> Tensor:
        """Return the stream behind the layer."""
        x = enter(x)
        x = x + attn(x)
        return x + mlp(x)
