"""The token vectors alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ablab.model.shape import Shape


class Plain(nn.Module):
    """The first layer reads the token vectors as they are."""

    source = "the plain form"
    reach = 0  # how many tokens back it looks; where it says nothing, it may look anywhere or at the place itself

    def __init__(self, shape: Shape) -> None:
        super().__init__()

    def forward(self, x_BTD: Tensor, tokens_BT: Tensor, pos_BT: Tensor, carry: Any = None) -> tuple[Tensor, Any]:
        return x_BTD, None
