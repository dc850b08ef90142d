"""A hashed table of token pairs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablab.core.rng import Draw
from ablab.model.embeddings.embedding import Embedding
from ablab.model.parts.linear import Linear, Table
from ablab.model.shape import Shape


class BigramHash(Embedding):
    """Adds scale P table[id(x_t, x_t-1)] to the token's vector: a memory of token pairs.

    id = (36313 x_t XOR 27191 x_t-1) mod (size - 1), products wrapped to int32, the modulus never negative; the last row
    stands for a document's start. The table (size, dim) starts at zero and the learned scale at 0.05; the projection P
    (d_model, dim) is drawn, since with both at zero nothing would ever move. P and scale get their first gradient once the
    table has moved. carry: the previous token ids (B,). Raises ValueError where size < 2 or dim < 1.

    size (rows): of the table
    dim (channels): of a row
    """

    source = "openai/parameter-golf #549, #1716"
    reach = 1

    def __init__(self, shape: Shape, *, size: int = 4096, dim: int = 128) -> None:
        super().__init__()
        if size < 2:
            raise ValueError(f"size = {size} leaves no row for a pair; choose 2 or more")
        if dim < 1:
            raise ValueError(f"dim = {dim} is no width; choose 1 or more")
        self.table = Table(size, dim, std=0.0)
        self.proj = Linear(dim, shape.d_model, std=shape.init_std)
        self.scale = nn.Parameter(torch.empty(()))
        self.size = size

    def init(self, draw: Draw) -> None:
        nn.init.constant_(self.scale, 0.05)

    def forward(
        self, x_BTD: Tensor, tokens_BT: Tensor, pos_BT: Tensor, carry: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        pair_BTE = self.table(self.ids(tokens_BT, pos_BT, carry))
        return x_BTD + (self.scale * self.proj(pair_BTE)).to(x_BTD.dtype), tokens_BT[:, -1]

    def ids(self, tokens_BT: Tensor, pos_BT: Tensor, carry: Tensor | None = None) -> Tensor:
        """Return the row of the table for each token, int64 (B, T)."""
        here = tokens_BT.long()
        before = torch.cat([here[:, :1] if carry is None else carry.long()[:, None], here[:, :-1]], dim=1)
        low = ((36313 * here) ^ (27191 * before)) & 0xFFFFFFFF
        signed = low - ((low >> 31) << 32)  # int32's wrap, without relying on an overflow
        ids = signed.remainder(self.size - 1)
        start = pos_BT == 0
        if carry is None:  # nothing is known before a stretch's first column
            start = start | (torch.arange(start.shape[1], device=start.device) == 0)
        return ids.masked_fill(start, self.size - 1)
