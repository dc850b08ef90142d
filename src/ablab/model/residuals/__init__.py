"""Residuals: how a layer reads from the residual stream and writes back. One file each; a list composes."""

from typing import Any

from ablab.core.slot import Slot

slot: Slot[Any] = Slot(
    "residual",
    __name__,
    lists=True,
    aliases={"none": "plain"},
    plain="Plain",
    mix="Mix",
    depth_scale="DepthScale",
    branch_scale="BranchScale",
)
