"""No rounding during training."""

from __future__ import annotations

from ablab.training.qats.qat import Qat


class Off(Qat):
    """The forward pass sees the weights as they are."""

    source = "the plain form"
