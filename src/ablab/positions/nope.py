"""No position signal, and the interface of every position scheme."""

from __future__ import annotations

import torch
from torch import nn

from ablab.columns import Columns
from ablab.shape import Shape


class Nope(nn.Module):
    """No position signal: scores see content only (Kazemnejad et al. 2023, arXiv 2305.19466).

    The four methods are the interface of the slot: where a token stands, what turns q and k, what is added to the
    scores as columns, what is added to them pair by pair. Attention calls them in this order, q and k already
    normalised.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()

    def place(
        self, x_BTD: torch.Tensor, pos_BT: torch.Tensor, carry: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What a token's place is; `carry` is what the tokens before this stretch left behind (decode)."""
        return pos_BT, carry

    def rotate(self, q_BTHK: torch.Tensor, k_BTGK: torch.Tensor, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The multiplicative part."""
        return q_BTHK, k_BTGK

    def columns(self, q_BTHK: torch.Tensor, k_BTGK: torch.Tensor, p: torch.Tensor) -> Columns | None:
        """The additive part as low-rank columns."""
        return None

    def bias(self, p: torch.Tensor) -> torch.Tensor | None:
        """The additive part that is no inner product of columns, pair by pair: (B|1, H, T, T)."""
        return None
