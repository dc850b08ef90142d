"""Position schemes: what a token's place does to attention scores. One file each; the table is the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot

if TYPE_CHECKING:
    from ablab.model.positions.position import Position

slot: Slot[Position] = Slot(
    "position",
    __name__,
    base="position.Position",
    lists=True,
    aliases={"alibi": "grape_a", "none": "nope"},
    nope="Nope",
    rope="Rope",
    yarn="Yarn",
    grape_m="GrapeM",
    grape_a="GrapeA",
    fox="Fox",
    t5_buckets="T5Buckets",
    grape_m_rank2="GrapeMRank2",
    grape_m_basis="GrapeMBasis",
    grape_m_context="GrapeMContext",
    grape_a_gated="GrapeAGated",
    grape_ap="GrapeAP",
)
