"""Data: sources to token files, token files to batches. Nothing here imports torch before a batch is asked for."""

from ablab.data.build import prepare
from ablab.data.corpus import Corpus, Document, open_corpus
from ablab.data.stream import Batch, Stream, chain
from ablab.data.windows import ValidRows, valid_rows

__all__ = [
    "Batch",
    "Corpus",
    "Document",
    "Stream",
    "ValidRows",
    "chain",
    "open_corpus",
    "prepare",
    "valid_rows",
]
