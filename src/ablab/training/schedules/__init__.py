"""Schedules: fraction of the budget spent to the factor on each learning rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot

if TYPE_CHECKING:
    from ablab.training.schedules.schedule import Schedule

slot: Slot[Schedule] = Slot("schedule", __name__, base="schedule.Schedule", wsd="Wsd", cosine="Cosine")
