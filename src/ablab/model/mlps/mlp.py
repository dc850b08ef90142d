"""What every MLP is: the position-wise part of a block."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from ablab.core.lever import Sized
from ablab.model.parts.part import Part
from ablab.model.parts.routing import Chooser


class Mlp(Part, Sized):
    """x_BTD -> BTD, each token by itself. Its matrices are `ablab.model.parts.linear.Linear`, which draw their own weights.

    `routed`: tokens choose among `n_experts`; the model then sets `router`, and `forward` takes what losses and counts go to.
    """

    routed = False
    n_experts = 0
    router: Chooser | None

    @abstractmethod
    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return what is added to the stream."""
