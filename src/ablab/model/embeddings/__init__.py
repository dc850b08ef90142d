"""Embeddings: what is done to the token vectors before the first layer. One file each; a list composes, in order."""

from typing import Any

from ablab.core.slot import Slot

slot: Slot[Any] = Slot(
    "embedding",
    __name__,
    lists=True,
    aliases={"none": "plain", "bigram": "bigram_hash"},
    plain="Plain",
    bigram_hash="BigramHash",
    smear_gate="SmearGate",
    norm="BareNorm",
    learned="Learned",
)
