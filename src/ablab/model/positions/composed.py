"""Several position schemes on one layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from ablab.model.parts.columns import Columns
from ablab.model.positions.position import Position

Places = tuple[object, ...]  # of each part


class Composed(Position):
    """A list of position schemes: rotations act in order, biases add (GRAPE's direct sum, arXiv 2512.07805).

    ValueError where there is none, or where one `reads` q and k for its bias while another `turns` them.
    """

    def __init__(self, parts: Sequence[Position]) -> None:
        super().__init__()
        if not parts:
            raise ValueError("a composed position has no parts; name at least one")
        if any(part.reads for part in parts) and any(part.turns for part in parts):
            raise ValueError(
                "a gated bias reads queries and keys that another part turns, so it would not depend on distance alone; "
                "use grape_a or fox beside a rotation"
            )
        self.parts = nn.ModuleList(parts)
        self.relative = all(part.relative for part in parts)
        self.pairwise = any(part.pairwise for part in parts)
        self.needs_length = any(part.needs_length for part in parts)

    def place(self, x_BTD: torch.Tensor, pos_BT: torch.Tensor, carry: Places | None = None) -> tuple[Places, Places]:
        """Return one place for each part."""
        carries = carry or (None,) * len(self.parts)
        done = [part.place(x_BTD, pos_BT, c) for part, c in self._with(carries)]
        return tuple(p for p, _ in done), tuple(c for _, c in done)

    def rotate(self, q_BTHK: torch.Tensor, k_BTGK: torch.Tensor, p: Places) -> tuple[torch.Tensor, torch.Tensor]:
        for part, place in self._with(p):
            q_BTHK, k_BTGK = part.rotate(q_BTHK, k_BTGK, place)
        return q_BTHK, k_BTGK

    def columns(self, q_BTHK: torch.Tensor, k_BTGK: torch.Tensor, p: Places) -> Columns | None:
        places = [part.columns(q_BTHK, k_BTGK, place) for part, place in self._with(p)]
        several = [columns for columns in places if columns is not None]
        return joined(several) if several else None

    @property
    def alike(self) -> bool:
        """Every part treats all heads alike, if it turns them at all."""
        return all(part.alike for part in self._each())

    def bias(self, p_query: Places, p_key: Places) -> torch.Tensor:
        """Sum the pairwise parts' biases; only where `pairwise`."""
        parts = zip(self._each(), p_query, p_key, strict=True)
        several = [part.bias(query, key) for part, query, key in parts if part.pairwise]
        return sum(several[1:], several[0])

    def _each(self) -> list[Position]:
        return cast(list[Position], list(self.parts))

    def _with(self, each: Places) -> list[tuple[Position, object]]:
        return list(zip(self._each(), each, strict=True))


def joined(several: Sequence[Columns]) -> Columns:
    """Sum several biases: their columns side by side."""
    if len(several) == 1:
        return several[0]
    u = _side_by_side([c.u for c in several])
    w = _side_by_side([c.w for c in several])
    row = torch.stack(torch.broadcast_tensors(*(c.row for c in several))).sum(0)
    return Columns(u, w, row, (max(c.parts[0] for c in several), max(c.parts[1] for c in several)))


def _side_by_side(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    batch, length, heads = (max(t.shape[d] for t in tensors) for d in range(3))
    return torch.cat([t.expand(batch, length, heads, t.shape[3]) for t in tensors], dim=3)
