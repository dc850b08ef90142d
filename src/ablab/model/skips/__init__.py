"""Connections past many layers. One file each; the table is the registry."""

from ablab.core.slot import Slot

slot = Slot("skips", __name__, none="Straight", unet="Unet")
