"""Schedules: fraction of the budget spent to the factor on each learning rate."""

from typing import Any

from ablab.core.slot import Slot

slot: Slot[Any] = Slot("schedule", __name__, wsd="Wsd", cosine="Cosine")
