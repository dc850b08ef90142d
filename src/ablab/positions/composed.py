"""Several position schemes on one layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ablab.columns import Columns, joined


class Composed(nn.Module):
    """A list of position schemes: rotations act in order, biases add (GRAPE's direct sum, arXiv 2512.07805)."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        if not parts:
            raise ValueError("a composed position has no parts; name at least one")
        self.parts = nn.ModuleList(parts)

    def place(self, x_BTD: torch.Tensor, pos_BT: torch.Tensor, carry: Any = None) -> tuple[Any, Any]:
        """One place for each part."""
        carries = carry or (None,) * len(self.parts)
        done = [part.place(x_BTD, pos_BT, c) for part, c in self._with(carries)]
        return tuple(p for p, _ in done), tuple(c for _, c in done)

    def rotate(self, q_BTHK: torch.Tensor, k_BTGK: torch.Tensor, p: Any) -> tuple[torch.Tensor, torch.Tensor]:
        for part, place in self._with(p):
            q_BTHK, k_BTGK = part.rotate(q_BTHK, k_BTGK, place)
        return q_BTHK, k_BTGK

    def columns(self, q_BTHK: torch.Tensor, k_BTGK: torch.Tensor, p: Any) -> Columns | None:
        found = [part.columns(q_BTHK, k_BTGK, place) for part, place in self._with(p)]
        several = [columns for columns in found if columns is not None]
        return joined(several) if several else None

    def bias(self, p: Any) -> torch.Tensor | None:
        found = [part.bias(place) for part, place in self._with(p)]
        several = [bias for bias in found if bias is not None]
        return sum(several[1:], several[0]) if several else None

    def _with(self, each: Any) -> list[tuple[Any, Any]]:
        return list(zip(self.parts, each, strict=True))
