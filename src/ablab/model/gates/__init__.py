"""Gates: what is done to attention's output, head by head, before the output matrix. One file each."""

from typing import Any

from ablab.core.slot import Slot

slot: Slot[Any] = Slot(
    "gate",
    __name__,
    lists=True,
    aliases={"none": "off"},
    off="Off",
    attn_out_gate="AttnOutGate",
    sparse_attn_gate="SparseAttnGate",
    gated_attn="GatedAttn",
    xsa="Xsa",
)
