"""MLPs: the position-wise part of a block."""

from ablab.core.slot import Slot

slot = Slot(
    "mlp",
    __name__,
    relu2="Relu2",
    leaky_relu2="LeakyRelu2",
    swiglu="Swiglu",
    gelu="Gelu",
    gptoss_swiglu="GptossSwiglu",
    moe="Moe",
)
