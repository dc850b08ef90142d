"""MLPs: the position-wise part of a block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot

if TYPE_CHECKING:
    from ablab.model.mlps.mlp import Mlp

slot: Slot[Mlp] = Slot(
    "mlp",
    __name__,
    base="mlp.Mlp",
    relu2="Relu2",
    leaky_relu2="LeakyRelu2",
    swiglu="Swiglu",
    gelu="Gelu",
    gptoss_swiglu="GptossSwiglu",
    moe="Moe",
)
