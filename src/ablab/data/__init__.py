"""Data: sources to token files, token files to batches. Nothing here imports torch before a batch is asked for."""

from ablab.data.batches.stream import Batch, Feed, Stream, chain
from ablab.data.batches.windows import ValidRows, valid_rows
from ablab.data.corpus.build import prepare
from ablab.data.corpus.corpus import Corpus, Document, open_corpus

__all__ = [
    "Batch",
    "Corpus",
    "Document",
    "Feed",
    "Stream",
    "ValidRows",
    "chain",
    "open_corpus",
    "prepare",
    "valid_rows",
]
