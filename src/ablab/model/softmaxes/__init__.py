"""Softmaxes: what competes with the keys for the attention mass."""

from typing import Any

from ablab.core.slot import Slot

slot: Slot[Any] = Slot(
    "softmax", __name__, aliases={"learnable": "sink"}, vanilla="Vanilla", off_by_one="OffByOne", sink="Sink"
)
