"""Several position schemes on one layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ablab.model.parts.columns import Columns, joined


class Composed(nn.Module):
    """A list of position schemes: rotations act in order, biases add (GRAPE's direct sum, arXiv 2512.07805).

    ValueError where there is none, or where one `reads` q and k for its bias while another `turns` them.
    """

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        if not parts:
            raise ValueError("a composed position has no parts; name at least one")
        if any(getattr(part, "reads", False) for part in parts) and any(
            getattr(part, "turns", False) for part in parts
        ):
            raise ValueError(
                "a gated bias reads queries and keys that another part turns, so it would not depend on distance alone; "
                "use grape_a or fox beside a rotation"
            )
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

    @property
    def pairwise(self) -> bool:
        """Some part has a pairwise bias."""
        return any(_pairwise(part) for part in self.parts)

    @property
    def alike(self) -> bool:
        """Every part treats all heads alike, if it turns them at all."""
        return all(getattr(part, "alike", not getattr(part, "turns", False)) for part in self.parts)

    @property
    def relative(self) -> bool:
        """Every part sees differences of places alone."""
        return all(getattr(part, "relative", False) for part in self.parts)

    def bias(self, p_query: Any, p_key: Any) -> torch.Tensor:
        """The sum of the pairwise parts' biases; only where `pairwise`."""
        parts: Any = zip(self.parts, p_query, p_key, strict=True)
        several: list[torch.Tensor] = [part.bias(query, key) for part, query, key in parts if _pairwise(part)]
        return sum(several[1:], several[0])

    def _with(self, each: Any) -> list[tuple[Any, Any]]:
        return list(zip(self.parts, each, strict=True))


def _pairwise(part: nn.Module) -> bool:
    return bool(getattr(part, "pairwise", False))
