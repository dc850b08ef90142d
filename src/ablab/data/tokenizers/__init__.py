"""Tokenizers: text to token ids and exact bytes per token."""

from typing import Any

from ablab.core.slot import Slot

slot: Slot[Any] = Slot(
    "tokenizer",
    __name__,
    aliases={"sp": "sentencepiece"},
    bytes="Bytes",
    sentencepiece="SentencePiece",
    case_ops="CaseOps",
    o200k_harmony="O200kHarmony",
)
