"""Connections past many layers. One file each; the table is the registry."""

from ablab.slot import Slot

slot = Slot("skips", __name__, none="Straight", unet="Unet")
