"""Each layer's own values."""

from __future__ import annotations

from torch import Tensor, nn

from ablab.model.shape import Shape


class Own(nn.Module):
    """Attention reads the values that its layer projected."""

    source = "the plain form"

    def __init__(self, shape: Shape) -> None:
        super().__init__()

    def forward(self, v_BTGK: Tensor, first_BTGK: Tensor | None) -> Tensor:
        return v_BTGK
