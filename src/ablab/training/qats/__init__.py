"""Quantisation-aware training: which weights the forward pass sees rounded, how, and from when on."""

from typing import Any

from ablab.core.slot import Slot

slot: Slot[Any] = Slot(
    "qat", __name__, aliases={"none": "off", "int6": "fake_quant"}, off="Off", fake_quant="FakeQuant"
)
