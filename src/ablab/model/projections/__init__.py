"""Projections: hidden states to queries, keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot

if TYPE_CHECKING:
    from ablab.model.projections.projection import Projection

slot: Slot[Projection] = Slot(
    "projection", __name__, base="projection.Projection", aliases={"mha": "gqa"}, gqa="Gqa", tpa="Tpa"
)
