"""A learned vector for each place."""

from __future__ import annotations

import torch
from torch import Tensor

from ablab.model.embeddings.embedding import Embedding
from ablab.model.parts.linear import Table
from ablab.model.shape import Shape


class Learned(Embedding):
    """Adds a learned vector for the token's place in its document: seq_len rows, N(0, init_std^2).

    x_BTD -> the same. Raises ValueError for a place beyond seq_len: there is no vector for it.
    """

    source = "Radford et al. 2019 (GPT-2)"

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.rows = shape.seq_len
        self.table = Table(shape.seq_len, shape.d_model, std=shape.init_std)

    def forward(self, x_BTD: Tensor, tokens_BT: Tensor, pos_BT: Tensor, carry: object = None) -> tuple[Tensor, None]:
        if not torch.compiler.is_compiling():  # compiled, the lookup raises
            self.within(int(pos_BT.max()))
        return x_BTD + self.table(pos_BT).to(x_BTD.dtype), None

    def within(self, last: int) -> None:
        """Refuse a place `last` for which there is no vector."""
        if last >= self.rows:
            raise ValueError(
                f"place {last} is beyond the {self.rows} learned places; "
                "raise model.seq_len, or use a position lever that reaches further"
            )
