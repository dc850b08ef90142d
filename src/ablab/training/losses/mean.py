"""The mean over all targets."""

from __future__ import annotations

from ablab.training.losses.loss import Loss


class Mean(Loss):
    """Every target of the batch weighs the same."""

    source = "the usual language-model loss"
