"""Schedules: fraction of the budget spent to the factor on each learning rate."""

from ablab.core.slot import Slot

slot = Slot("schedule", __name__, wsd="Wsd", cosine="Cosine")
