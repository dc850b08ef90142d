"""What every value scheme is: which values a layer's attention mixes."""

from __future__ import annotations

from torch import Tensor

from ablab.core.lever import Sized
from ablab.model.parts.part import Part


class Value(Part, Sized):
    """A layer's values are its own."""

    def forward(self, v_BTGK: Tensor, first_BTGK: Tensor | None) -> Tensor:
        """Return the values; `first_BTGK` are the first layer's, None in the first layer itself."""
        return v_BTGK
