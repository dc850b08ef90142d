"""Gates: what is done to attention's output, head by head, before the output matrix. One file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot

if TYPE_CHECKING:
    from ablab.model.gates.output_gate import OutputGate

slot: Slot[OutputGate] = Slot(
    "gate",
    __name__,
    base="output_gate.OutputGate",
    lists=True,
    aliases={"none": "off"},
    off="Off",
    attn_out_gate="AttnOutGate",
    sparse_attn_gate="SparseAttnGate",
    gated_attn="GatedAttn",
    xsa="Xsa",
)
