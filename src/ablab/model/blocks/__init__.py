"""How a layer joins attention and mlp to the stream. One file each; the table is the registry."""

from typing import Any

from ablab.core.slot import Slot

slot: Slot[Any] = Slot(
    "block",
    __name__,
    aliases={"gptj": "parallel", "lanes": "two_lane"},
    sequential="Sequential",
    parallel="Parallel",
    two_lane="TwoLane",
)
