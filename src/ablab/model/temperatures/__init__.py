"""Temperatures: what scales the scores of a head, by scaling its queries after norm and rotation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot

if TYPE_CHECKING:
    from ablab.model.temperatures.temperature import Temperature

slot: Slot[Temperature] = Slot(
    "temperature", __name__, base="temperature.Temperature", constant="Constant", qk_gain="QkGain"
)
