"""How stable a training run was: spikes of the loss, and which gradient stopped being a number."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import torch
from torch import nn

WINDOW = 64  # steps that a step is compared with
SPREADS = 6.0  # of the robust standard deviation, 1.4826 times the median absolute deviation
NATS = 0.1  # and at least this much above the median


class Spikes:
    """A step spikes when its loss exceeds the median of the last 64 by 6 robust standard deviations and by 0.1 nats.

    `recent` is shared with the caller, who keeps it in checkpoints. Nothing is called a spike before 64 losses are known.
    A loss enters the window whether it spiked or not, so a lasting jump is counted until it is the new level.
    """

    def __init__(self, recent: list[float]) -> None:
        self.recent = recent

    def seen(self, loss: float) -> bool:
        """Take note of a loss; true where it is a spike."""
        spike = False
        if len(self.recent) == WINDOW:
            middle = statistics.median(self.recent)
            if loss > middle + NATS:  # the deviations are worth computing only then
                spread = 1.4826 * statistics.median(abs(x - middle) for x in self.recent)
                spike = loss > middle + SPREADS * spread
            self.recent.pop(0)
        self.recent.append(loss)
        return spike


def nonfinite(parameters: Mapping[str, nn.Parameter]) -> str:
    """Name the first parameter whose gradient holds NaN or Infinity, and how many others do."""
    bad = [name for name, p in parameters.items() if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
    if not bad:
        return "every gradient is finite, their squares overflow"
    return f"first in {bad[0]}" + (f", {len(bad) - 1} more" if len(bad) > 1 else "")
