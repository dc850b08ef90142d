"""No position signal."""

from __future__ import annotations

from ablab.model.positions.position import Position


class Nope(Position):
    """No position signal: scores see content only."""

    source = "Kazemnejad et al. 2023, arXiv 2305.19466"
    relative = True
