"""Losses: what the nats of a batch's targets weigh in the gradient."""

from typing import Any

from ablab.core.slot import Slot

slot: Slot[Any] = Slot("loss", __name__, mean="Mean", spans="Spans")
