"""What every loss is: what the nats of a batch's targets weigh in the gradient."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ablab.core.lever import Sized


class Loss(Sized):
    """Every target of the batch weighs the same."""

    spans: ClassVar[bool] = False  # it needs data whose tokens lie in spans

    def weigh(self, targets_BT: Tensor, spans_BT: Tensor) -> tuple[Tensor | None, float]:
        """Return the weight of each target (None: 1) and the divisor of the sum of nats. Targets of -1 are not scored."""
        return None, float(max(1, int((targets_BT >= 0).sum())))
