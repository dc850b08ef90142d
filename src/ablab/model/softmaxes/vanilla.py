"""The plain softmax."""

from __future__ import annotations

from ablab.model.softmaxes.softmax import Softmax


class Vanilla(Softmax):
    """Attention weights sum to 1 over the visible keys."""

    source = "Vaswani et al. 2017, arXiv 1706.03762"
