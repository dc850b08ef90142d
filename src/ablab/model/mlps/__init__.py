"""MLPs: the position-wise part of a block."""

from typing import Any

from ablab.core.slot import Slot

slot: Slot[Any] = Slot(
    "mlp",
    __name__,
    relu2="Relu2",
    leaky_relu2="LeakyRelu2",
    swiglu="Swiglu",
    gelu="Gelu",
    gptoss_swiglu="GptossSwiglu",
    moe="Moe",
)
