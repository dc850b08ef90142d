"""Quantisation-aware training: which weights the forward pass sees rounded, how, and from when on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot

if TYPE_CHECKING:
    from ablab.training.qats.qat import Qat

slot: Slot[Qat] = Slot(
    "qat", __name__, base="qat.Qat", aliases={"none": "off", "int6": "fake_quant"}, off="Off", fake_quant="FakeQuant"
)
