"""Evaluators: a model and held-out documents to scores per document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot
from ablab.core.spelling import Before

if TYPE_CHECKING:
    from ablab.scoring.evaluators.evaluator import Evaluator

SGD = {"adapt": "", **{name: f"optimizer.{name}" for name in ("lr", "momentum", "clip")}}
LORA = {
    "adapt": "",
    **{name: f"optimizer.{name}" for name in ("lr", "betas", "eps", "weight_decay")},
    **{name: f"adapters.{name}" for name in ("rank", "alpha", "targets")},
    "prefix_documents": "phases.prefix_documents",
    "phase_lr": "phases.lr",
}

slot: Slot[Evaluator] = Slot(
    "evaluate",
    __name__,
    base="evaluator.Evaluator",
    disjoint="Disjoint",
    sliding="Sliding",
    streaming="Streaming",
    ngram="Ngram",
    ttt_sgd="TttSgd",
    ttt_lora="TttLora",
    needle="Needle",
    before={
        "ttt": [Before("ttt_lora", LORA, {"adapt": "lora"}), Before("ttt_sgd", SGD)],
        "ttt_sgd": [Before("ttt_sgd", SGD)],
        "ttt_lora": [Before("ttt_lora", LORA)],
    },
)
