"""What every embedding lever is: what the first layer reads."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ablab.core.lever import Sized
from ablab.model.parts.part import Part


class Embedding(Part, Sized):
    """The first layer reads the token vectors as they are."""

    reach: int | None = None  # how many tokens back it looks; None: anywhere, or at the place itself

    def forward(self, x_BTD: Tensor, tokens_BT: Tensor, pos_BT: Tensor, carry: Any = None) -> tuple[Tensor, Any]:
        """Return the vectors, and what is carried to the next stretch (decode)."""
        return x_BTD, None
