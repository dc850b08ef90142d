"""Warm-up, then half a cosine."""

from __future__ import annotations

import math

from ablab.core.lever import Choice, Sizes, value_of
from ablab.training.schedules.schedule import Schedule

LEAST = 0.05  # of a miniature, which has 20 steps: what is less would be over before the middle of its first


class Cosine(Schedule):
    """Linear warm-up, then half a cosine from the peak to min_lr at the end of the budget.

    Raises ValueError for numbers outside [0, 1).

    warmup (of the budget): how long the rise takes
    min_lr (of the peak): where it ends
    """

    source = "Loshchilov and Hutter 2017, arXiv 1608.03983"

    def __init__(self, *, warmup: float = 0.05, min_lr: float = 0.1) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup = {warmup} leaves no run; choose a number from 0 to below 1")
        if not 0 <= min_lr <= 1:
            raise ValueError(f"min_lr = {min_lr} is no fraction; choose a number from 0 to 1")
        self.warmup, self.min_lr = warmup, min_lr

    @staticmethod
    def miniature(choice: Choice, full: Sizes, small: Sizes) -> Choice:
        """Return settings long enough for a step, where there is a warm-up at all."""
        warmup = value_of(choice, "warmup", float)
        return {"warmup": warmup and max(warmup, LEAST)}

    def factor(self, progress: float) -> float:
        """Return what every learning rate is multiplied by when the fraction `progress` in [0, 1] of the budget is spent."""
        if not 0 <= progress <= 1:
            raise ValueError(f"progress = {progress} is outside [0, 1]")
        if progress < self.warmup:
            return progress / self.warmup
        fallen = (progress - self.warmup) / (1 - self.warmup)
        return self.min_lr + (1 - self.min_lr) * (1 + math.cos(math.pi * fallen)) / 2
