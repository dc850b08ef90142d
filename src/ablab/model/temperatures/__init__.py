"""Temperatures: what scales the scores of a head, by scaling its queries after norm and rotation."""

from ablab.core.slot import Slot

slot = Slot("temperature", __name__, constant="Constant", qk_gain="QkGain")
