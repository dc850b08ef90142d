"""Connections past many layers. One file each; the table is the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot

if TYPE_CHECKING:
    from ablab.model.skips.skips import Skips

slot: Slot[Skips] = Slot("skips", __name__, base="skips.Skips", none="Straight", unet="Unet")
