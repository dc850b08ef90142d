"""What every temperature is: how sharp attention looks, beside 1/sqrt(head_dim)."""

from __future__ import annotations

from torch import Tensor

from ablab.core.lever import Sized
from ablab.model.parts.part import Part


class Temperature(Part, Sized):
    """Scores are scaled by 1/sqrt(head_dim) alone."""

    def forward(self, q_BTHK: Tensor) -> Tensor:
        """Scale the queries."""
        return q_BTHK
