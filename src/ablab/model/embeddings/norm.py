"""Normalised token vectors."""

from __future__ import annotations

from torch import Tensor

from ablab.model.embeddings.embedding import Embedding
from ablab.model.parts.norms import Bare
from ablab.model.shape import Shape


class BareNorm(Embedding):
    """RMSNorm without a weight on the token vectors. x_BTD -> the same."""

    source = "modded-nanogpt, 2024; openai/parameter-golf"
    reach = 0

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm = Bare(shape.d_model, shape.norm_eps)

    def forward(self, x_BTD: Tensor, tokens_BT: Tensor, pos_BT: Tensor, carry: object = None) -> tuple[Tensor, None]:
        return self.norm(x_BTD), None
