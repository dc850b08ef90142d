"""Embeddings: what is done to the token vectors before the first layer. One file each; a list composes, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot

if TYPE_CHECKING:
    from ablab.model.embeddings.embedding import Embedding

slot: Slot[Embedding] = Slot(
    "embedding",
    __name__,
    base="embedding.Embedding",
    lists=True,
    aliases={"none": "plain", "bigram": "bigram_hash"},
    plain="Plain",
    bigram_hash="BigramHash",
    smear_gate="SmearGate",
    norm="BareNorm",
    learned="Learned",
)
