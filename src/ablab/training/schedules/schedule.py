"""What every schedule is: the fraction of the budget spent to the factor on each learning rate."""

from __future__ import annotations

from ablab.core.lever import Sized


class Schedule(Sized):
    """Every learning rate stays at its peak."""

    def factor(self, progress: float) -> float:
        """Return what every learning rate is multiplied by when the fraction `progress` in [0, 1] of the budget is spent."""
        return 1.0
