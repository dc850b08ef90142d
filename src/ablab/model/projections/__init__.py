"""Projections: hidden states to queries, keys and values."""

from ablab.core.slot import Slot

slot = Slot("projection", __name__, aliases={"mha": "gqa"}, gqa="Gqa", tpa="Tpa")
