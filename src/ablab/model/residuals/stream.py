"""What every residual lever is: how the stream enters a layer and its branches, and what they write to it."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ablab.core.lever import Sized
from ablab.model.parts.part import Part


class ResidualStream(Part, Sized):
    """x plus the branches' outputs, nothing scaled."""

    def enter(self, x_BTD: Tensor, x0_BTD: Tensor) -> Tensor:
        """Return the layer's input, from the stream and the model's first hidden state."""
        return x_BTD

    def into(self, h_BTD: Tensor) -> Tensor:
        """Return a branch's input, from the normalised stream."""
        return h_BTD

    def out(self, y_BTD: Tensor, branch: Literal["attn", "mlp"]) -> Tensor:
        """Return what is added to the stream, from a branch's output."""
        return y_BTD
