"""Projections: hidden states to queries, keys and values."""

from typing import Any

from ablab.core.slot import Slot

slot: Slot[Any] = Slot("projection", __name__, aliases={"mha": "gqa"}, gqa="Gqa", tpa="Tpa")
