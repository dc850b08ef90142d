"""Optimizers: parameters by role to updates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot

if TYPE_CHECKING:
    from ablab.training.optimizers.optimizer import Optimizer

slot: Slot[Optimizer] = Slot(
    "optimizer", __name__, base="optimizer.Optimizer", adamw="AdamW", muon="Muon", normuon="NorMuon"
)
