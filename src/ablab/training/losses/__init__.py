"""Losses: what the nats of a batch's targets weigh in the gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot

if TYPE_CHECKING:
    from ablab.training.losses.loss import Loss

slot: Slot[Loss] = Slot("loss", __name__, base="loss.Loss", mean="Mean", spans="Spans")
