"""A gate on each head's output that starts open."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ablab.core.lever import Choice, Sizes, value_of
from ablab.model.gates.output_gate import OutputGate
from ablab.model.parts.linear import Gate
from ablab.model.shape import Shape


class AttnOutGate(OutputGate):
    """y_h times 2 sigmoid(W_h . u[:width]), W zero at first, so the gate starts at 1.

    u is the attention's input. (B, T, H, K) -> the same. Raises ValueError where width is below 1 or above d_model.

    width (channels): the leading ones that the gate reads; "all" is d_model
    input: normed (#1667, #1716, #1855), or the raw residual stream before the norm (#1693, #1969, #1970)
    """

    source = "openai/parameter-golf #1667, #1693"

    def __init__(
        self, shape: Shape, *, width: int | Literal["all"] = 12, input: Literal["normed", "raw"] = "normed"
    ) -> None:
        super().__init__()
        self.width = shape.d_model if width == "all" else width
        if not 1 <= self.width <= shape.d_model:
            raise ValueError(
                f'width = {width} is not within d_model = {shape.d_model}; choose 1 to {shape.d_model} or "all"'
            )
        self.raw = input == "raw"
        self.gate = Gate(self.width, shape.n_heads)

    @staticmethod
    def miniature(choice: Choice, full: Sizes, small: Sizes) -> Choice:
        """Return the widest that a smaller model allows."""
        return {} if choice["width"] == "all" else {"width": min(value_of(choice, "width", int), small["d_model"])}

    def forward(self, y_BTHK: Tensor, x_BTD: Tensor, raw_BTD: Tensor, v_BTGK: Tensor) -> Tensor:
        u_BTW = (raw_BTD if self.raw else x_BTD)[..., : self.width]
        out: Tensor = y_BTHK * (2 * self.gate(u_BTW).sigmoid()).unsqueeze(-1).to(y_BTHK.dtype)
        return out
