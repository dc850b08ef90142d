"""Connections past many layers. One file each; the table is the registry."""

from typing import Any

from ablab.core.slot import Slot

slot: Slot[Any] = Slot("skips", __name__, none="Straight", unet="Unet")
