"""The mean over all targets."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor


class Mean:
    """Every target of the batch weighs the same."""

    source = "the usual language-model loss"
    spans: ClassVar[bool] = False

    def weigh(self, targets_BT: Tensor, spans_BT: Tensor) -> tuple[Tensor | None, float]:
        """None and the number of targets: the loss is the sum of nats over it."""
        return None, float(max(1, int((targets_BT >= 0).sum())))
