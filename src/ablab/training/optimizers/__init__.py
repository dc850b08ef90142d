"""Optimizers: parameters by role to updates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot
from ablab.core.spelling import Before

if TYPE_CHECKING:
    from ablab.training.optimizers.optimizer import Optimizer

AUX = {
    **{name: f"orthogonaliser.{name}" for name in ("steps", "lower", "cushion", "safety", "coefficients", "products")},
    **{f"aux_{name}": f"aux.{name}" for name in ("lr", "betas", "eps", "decay")},
    **{name: f"aux.{name}" for name in ("embedding_lr", "head_lr")},
    "taper": "decay.taper",
}
MOMENT = {**{name: f"second_moment.{name}" for name in ("beta2", "eps", "eps_form")}, "decay_form": "decay.form"}

slot: Slot[Optimizer] = Slot(
    "optimizer",
    __name__,
    base="optimizer.Optimizer",
    adamw="AdamW",
    muon="Muon",
    normuon="NorMuon",
    before={"muon": [Before("muon", AUX)], "normuon": [Before("normuon", {**AUX, **MOMENT})]},
)
