"""Several residual levers on one layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from torch import Tensor, nn

from ablab.model.residuals.stream import ResidualStream


class Composed(ResidualStream):
    """A list of residual levers, applied in order at each of their three places."""

    def __init__(self, parts: Sequence[ResidualStream]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def enter(self, x_BTD: Tensor, x0_BTD: Tensor) -> Tensor:
        for part in self._each():
            x_BTD = part.enter(x_BTD, x0_BTD)
        return x_BTD

    def into(self, h_BTD: Tensor) -> Tensor:
        for part in self._each():
            h_BTD = part.into(h_BTD)
        return h_BTD

    def out(self, y_BTD: Tensor, branch: Literal["attn", "mlp"]) -> Tensor:
        for part in self._each():
            y_BTD = part.out(y_BTD, branch)
        return y_BTD

    def _each(self) -> list[ResidualStream]:
        return cast(list[ResidualStream], list(self.parts))
