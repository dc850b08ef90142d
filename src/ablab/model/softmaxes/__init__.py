"""Softmaxes: what competes with the keys for the attention mass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot

if TYPE_CHECKING:
    from ablab.model.softmaxes.softmax import Softmax

slot: Slot[Softmax] = Slot(
    "softmax",
    __name__,
    base="softmax.Softmax",
    aliases={"learnable": "sink"},
    vanilla="Vanilla",
    off_by_one="OffByOne",
    sink="Sink",
)
