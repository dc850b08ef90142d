"""What every quantisation-aware training is: which weights the forward pass sees rounded, how, and from when on."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ablab.core.lever import Sized


class Qat(Sized):
    """The forward pass sees the weights as they are."""

    def chosen(self, parameters: Mapping[str, Tensor], roles: Mapping[str, str]) -> list[str]:
        """List the names of the parameters that are rounded."""
        return []

    def acts(self, spent: float) -> bool:
        """Tell whether a step that begins after this fraction of training is rounded."""
        return False

    def round(self, weight: Tensor) -> Tensor:
        """Round a chosen weight (..., rows, columns) to what the forward pass sees."""
        return weight
