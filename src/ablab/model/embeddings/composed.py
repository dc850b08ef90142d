"""Several embedding levers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ablab.model.embeddings.embedding import Embedding

Carries = tuple[object, ...]  # of each part


class Composed(Embedding):
    """A list of embedding levers, applied in order; carry is a tuple, one for each."""

    def __init__(self, parts: Sequence[Embedding]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        known = [part.reach for part in parts if part.reach is not None]
        self.reach = sum(known) if len(known) == len(parts) else None

    def forward(
        self, x_BTD: Tensor, tokens_BT: Tensor, pos_BT: Tensor, carry: Carries | None = None
    ) -> tuple[Tensor, Carries]:
        carries = []
        for part, had in zip(self.parts, carry or (None,) * len(self.parts), strict=True):
            x_BTD, has = part(x_BTD, tokens_BT, pos_BT, had)
            carries.append(has)
        return x_BTD, tuple(carries)
