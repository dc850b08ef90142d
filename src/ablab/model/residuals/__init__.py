"""Residuals: how a layer reads from the residual stream and writes back. One file each; a list composes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot

if TYPE_CHECKING:
    from ablab.model.residuals.stream import ResidualStream

slot: Slot[ResidualStream] = Slot(
    "residual",
    __name__,
    base="stream.ResidualStream",
    lists=True,
    aliases={"none": "plain"},
    plain="Plain",
    mix="Mix",
    depth_scale="DepthScale",
    branch_scale="BranchScale",
)
