"""Warm-up, stable, down."""

from __future__ import annotations

from typing import Literal

from ablab.core.lever import Choice, Sizes, value_of
from ablab.training.schedules.schedule import Schedule

LEAST = 0.05  # of a miniature, which has 20 steps: what is less would be over before the middle of its first


class Wsd(Schedule):
    """Linear warm-up, a plateau at the peak, then a fall to min_lr.

    Raises ValueError for fractions outside [0, 1] or that overlap.

    warmup (of the budget): how long the rise takes
    warmdown (of the budget): how long the fall takes
    min_lr (of the peak): where it ends
    shape: of the fall: linear, or sqrt for 1 - sqrt
    """

    source = "Hu et al. 2024 (MiniCPM), arXiv 2404.06395"

    def __init__(
        self,
        *,
        warmup: float = 0.05,
        warmdown: float = 0.75,
        min_lr: float = 0.0,
        shape: Literal["linear", "sqrt"] = "linear",
    ) -> None:
        for name, value in (("warmup", warmup), ("warmdown", warmdown), ("min_lr", min_lr)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} = {value} is no fraction; choose a number from 0 to 1")
        if warmup + warmdown > 1:
            raise ValueError(
                f"warmup + warmdown = {warmup + warmdown:g} is more than the run; make their sum at most 1"
            )
        self.warmup, self.warmdown, self.min_lr, self.shape = warmup, warmdown, min_lr, shape

    @staticmethod
    def miniature(choice: Choice, full: Sizes, small: Sizes) -> Choice:
        """Return settings long enough for a step, where there is a warm-up or a warm-down at all."""
        warmup, warmdown = value_of(choice, "warmup", float), value_of(choice, "warmdown", float)
        warmup = warmup and max(warmup, LEAST)
        if warmdown and warmup > 1 - LEAST:
            warmup = 1 - LEAST
        return {"warmup": warmup, "warmdown": warmdown and min(1 - warmup, max(warmdown, LEAST))}

    def factor(self, progress: float) -> float:
        """Return what every learning rate is multiplied by when the fraction `progress` in [0, 1] of the budget is spent."""
        if not 0 <= progress <= 1:
            raise ValueError(f"progress = {progress} is outside [0, 1]")
        if progress < self.warmup:
            return progress / self.warmup
        if progress <= 1 - self.warmdown:
            return 1.0
        fallen = (progress - (1 - self.warmdown)) / self.warmdown
        fallen = fallen**0.5 if self.shape == "sqrt" else fallen
        return 1 - (1 - self.min_lr) * fallen
