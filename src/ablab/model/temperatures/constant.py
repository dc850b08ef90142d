"""The plain scale."""

from __future__ import annotations

from ablab.model.temperatures.temperature import Temperature


class Constant(Temperature):
    """Scores are scaled by 1/sqrt(head_dim) alone."""

    source = "Vaswani et al. 2017, arXiv 1706.03762"
