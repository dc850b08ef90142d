"""Several gates on one layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ablab.model.gates.output_gate import OutputGate


class Composed(OutputGate):
    """A list of gates, applied in order: each sees what the one before it let through."""

    def __init__(self, parts: Sequence[OutputGate]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, y_BTHK: Tensor, x_BTD: Tensor, raw_BTD: Tensor, v_BTGK: Tensor) -> Tensor:
        for part in self.parts:
            y_BTHK = part(y_BTHK, x_BTD, raw_BTD, v_BTGK)
        return y_BTHK
