"""Tokenizers: text to token ids and exact bytes per token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot

if TYPE_CHECKING:
    from ablab.data.tokenizers.tokenizer import Tokenizer

slot: Slot[Tokenizer] = Slot(
    "tokenizer",
    __name__,
    base="tokenizer.Tokenizer",
    aliases={"sp": "sentencepiece"},
    bytes="Bytes",
    sentencepiece="SentencePiece",
    case_ops="CaseOps",
    o200k_harmony="O200kHarmony",
)
