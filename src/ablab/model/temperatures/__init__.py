"""Temperatures: what scales the scores of a head, by scaling its queries after norm and rotation."""

from typing import Any

from ablab.core.slot import Slot

slot: Slot[Any] = Slot("temperature", __name__, constant="Constant", qk_gain="QkGain")
