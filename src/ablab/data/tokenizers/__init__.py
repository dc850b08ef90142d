"""Tokenizers: text to token ids and exact bytes per token."""

from ablab.core.slot import Slot

slot = Slot(
    "tokenizer",
    __name__,
    aliases={"sp": "sentencepiece"},
    bytes="Bytes",
    sentencepiece="SentencePiece",
    case_ops="CaseOps",
    o200k_harmony="O200kHarmony",
)
