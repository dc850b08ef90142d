"""Routers: which experts of a mixture a token meets, and with which weight."""

from typing import Any

from ablab.core.slot import Slot

slot: Slot[Any] = Slot("router", __name__, deepseek_v3="DeepseekV3", softmax_topk="SoftmaxTopk")
