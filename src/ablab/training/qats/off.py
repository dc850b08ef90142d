"""No rounding during training."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


class Off:
    """The forward pass sees the weights as they are."""

    source = "the plain form"

    def chosen(self, parameters: Mapping[str, Tensor], roles: Mapping[str, str]) -> list[str]:
        """Names of the parameters that are rounded: none."""
        return []

    def acts(self, spent: float) -> bool:
        """Whether a step that begins after this fraction of training is rounded."""
        return False

    def round(self, weight: Tensor) -> Tensor:
        """What the forward pass sees of a chosen weight."""
        return weight
