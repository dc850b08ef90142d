"""What every skip is: connections past many layers."""

from __future__ import annotations

from torch import Tensor

from ablab.core.lever import Sized
from ablab.model.parts.part import Part


class Skips(Part, Sized):
    """No connection past a layer: the stream alone."""

    def before(self, x: Tensor, step: int, n_steps: int, kept: list[Tensor]) -> Tensor:
        """Return what layer `step` of `n_steps`, loops unrolled, reads; it may take from `kept`."""
        return x

    def after(self, x: Tensor, step: int, n_steps: int, kept: list[Tensor]) -> None:
        """Keep what a layer gave, for a later one."""
