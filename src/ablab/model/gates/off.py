"""No gate."""

from __future__ import annotations

from torch import Tensor, nn

from ablab.model.shape import Shape


class Off(nn.Module):
    """Attention's output goes to the output matrix as it is."""

    source = "the plain form"

    def __init__(self, shape: Shape) -> None:
        super().__init__()

    def forward(self, y_BTHK: Tensor, x_BTD: Tensor, raw_BTD: Tensor, v_BTGK: Tensor) -> Tensor:
        return y_BTHK
