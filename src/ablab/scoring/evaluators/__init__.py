"""Evaluators: a model and held-out documents to scores per document."""

from ablab.core.slot import Slot

slot = Slot(
    "evaluate",
    __name__,
    disjoint="Disjoint",
    sliding="Sliding",
    streaming="Streaming",
    ngram="Ngram",
    ttt="Ttt",
    needle="Needle",
)
