"""Evaluators: a model and held-out documents to scores per document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot

if TYPE_CHECKING:
    from ablab.scoring.evaluators.evaluator import Evaluator

slot: Slot[Evaluator] = Slot(
    "evaluate",
    __name__,
    base="evaluator.Evaluator",
    disjoint="Disjoint",
    sliding="Sliding",
    streaming="Streaming",
    ngram="Ngram",
    ttt="Ttt",
    needle="Needle",
)
