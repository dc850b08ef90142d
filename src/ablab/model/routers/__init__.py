"""Routers: which experts of a mixture a token meets, and with which weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot

if TYPE_CHECKING:
    from ablab.model.routers.router import Router

slot: Slot[Router] = Slot(
    "router", __name__, base="router.Router", deepseek_v3="DeepseekV3", softmax_topk="SoftmaxTopk"
)
