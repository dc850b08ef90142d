"""A gate on each head's output that reads the whole input."""

from __future__ import annotations

from torch import Tensor

from ablab.model.gates.output_gate import OutputGate
from ablab.model.parts.linear import Gate
from ablab.model.shape import Shape


class GatedAttn(OutputGate):
    """y_h times sigmoid(W_h . x), W (n_heads, d_model) drawn N(0, init_std^2).

    x is the normalised attention input; the gate starts near 0.5. (B, T, H, K) -> the same. Raises ValueError where
    init_std is negative.

    init_std: standard deviation of W at first; 0.005 is Parameter Golf's (#1736)
    """

    source = "Qiu et al. 2025, arXiv 2505.06708; openai/parameter-golf #1736"

    def __init__(self, shape: Shape, *, init_std: float = 0.005) -> None:
        super().__init__()
        if init_std < 0:
            raise ValueError(f"init_std is {init_std:g}; give init_std >= 0")
        self.gate = Gate(shape.d_model, shape.n_heads, std=init_std)

    def forward(self, y_BTHK: Tensor, x_BTD: Tensor, raw_BTD: Tensor, v_BTGK: Tensor) -> Tensor:
        out: Tensor = y_BTHK * self.gate(x_BTD).sigmoid().unsqueeze(-1).to(y_BTHK.dtype)
        return out
