"""Several embedding levers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class Composed(nn.Module):
    """A list of embedding levers, applied in order; carry is a tuple, one for each."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    @property
    def reach(self) -> int | None:
        """How many tokens back all of them look together; None where one does not say."""
        several: list[int | None] = [getattr(part, "reach", None) for part in self.parts]
        known = [reach for reach in several if reach is not None]
        return sum(known) if len(known) == len(several) else None

    def forward(self, x_BTD: Tensor, tokens_BT: Tensor, pos_BT: Tensor, carry: Any = None) -> tuple[Tensor, Any]:
        carries = []
        for part, had in zip(self.parts, carry or (None,) * len(self.parts), strict=True):
            x_BTD, has = part(x_BTD, tokens_BT, pos_BT, had)
            carries.append(has)
        return x_BTD, tuple(carries)
