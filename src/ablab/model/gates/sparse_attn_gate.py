"""A gate on each head's output that starts half open."""

from __future__ import annotations

from torch import Tensor

from ablab.core.lever import Choice, Sizes, value_of
from ablab.model.gates.output_gate import OutputGate
from ablab.model.parts.linear import Gate
from ablab.model.shape import Shape


class SparseAttnGate(OutputGate):
    """y_h times sigmoid(scale W_h . x[:width]), W zero at first, so the gate starts at 0.5.

    x is the normalised attention input. (B, T, H, K) -> the same. Raises ValueError where width is below 1 or above
    d_model, or scale is not positive (at 0 the gate would never learn).

    width (channels): the leading ones that are read
    scale: of the sigmoid's argument: 1.0 in #1787, 0.5 in #1855
    """

    source = "openai/parameter-golf #1787"

    def __init__(self, shape: Shape, *, width: int = 12, scale: float = 1.0) -> None:
        super().__init__()
        if not 1 <= width <= shape.d_model:
            raise ValueError(f"width = {width} is not within d_model = {shape.d_model}; choose 1 to {shape.d_model}")
        if scale <= 0:
            raise ValueError(f"scale = {scale:g} makes a gate that cannot learn; choose scale > 0")
        self.width, self.scale = width, scale
        self.gate = Gate(width, shape.n_heads)

    @staticmethod
    def miniature(choice: Choice, full: Sizes, small: Sizes) -> Choice:
        """Return the widest that a smaller model allows."""
        return {"width": min(value_of(choice, "width", int), small["d_model"])}

    def forward(self, y_BTHK: Tensor, x_BTD: Tensor, raw_BTD: Tensor, v_BTGK: Tensor) -> Tensor:
        gate_BTH = (self.scale * self.gate(x_BTD[..., : self.width])).sigmoid()
        out: Tensor = y_BTHK * gate_BTH.unsqueeze(-1).to(y_BTHK.dtype)
        return out
