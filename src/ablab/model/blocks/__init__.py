"""How a layer joins attention and mlp to the stream. One file each; the table is the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot

if TYPE_CHECKING:
    from ablab.model.blocks.block import Block

slot: Slot[Block] = Slot(
    "block",
    __name__,
    base="block.Block",
    aliases={"gptj": "parallel", "lanes": "two_lane"},
    sequential="Sequential",
    parallel="Parallel",
    two_lane="TwoLane",
)
