"""No position signal, and the interface of every position scheme."""

from __future__ import annotations

import torch
from torch import nn

from ablab.model.parts.columns import Columns
from ablab.model.shape import Shape


class Nope(nn.Module):
    """No position signal: scores see content only.

    The three methods are the interface of the slot: where a token stands, what turns q and k, what is added to the
    scores as columns. Attention calls them in this order, q and k already normalised. A scheme whose bias is no inner
    product of columns sets `pairwise = True` and has a fourth, `bias(p_query, p_key) -> (B|1, H, T, S)`, fp32 or fp64:
    the bias of the queries at p_query over the keys at p_key, of which attention asks for blocks. Every tensor in a
    place has leading axes (B, length): places are cut along the second, and kept with the keys in decode. `turns = True`
    says that q and k are rotated, `alike = True` that all heads are by the same angles, `reads = True` that columns
    depend on q and k, `relative = True` that scores see differences of places alone and nothing before the key.
    """

    source = "Kazemnejad et al. 2023, arXiv 2305.19466"
    relative = True

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
