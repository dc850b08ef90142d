"""What every gate is: what becomes of attention's output before the output matrix."""

from __future__ import annotations

from torch import Tensor

from ablab.core.lever import Sized
from ablab.model.parts.part import Part


class OutputGate(Part, Sized):
    """Attention's output goes to the output matrix as it is."""

    def forward(self, y_BTHK: Tensor, x_BTD: Tensor, raw_BTD: Tensor, v_BTGK: Tensor) -> Tensor:
        """Gate y; x is the attention's normalised input, raw the stream before the norm, v the values."""
        return y_BTHK
