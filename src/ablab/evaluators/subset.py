"""A corpus with fewer validation documents."""

from __future__ import annotations

import dataclasses

from ablab.data.corpus import Corpus


def first(corpus: Corpus, documents: int | None) -> Corpus:
    """`corpus` with its first `documents` validation documents (they lie in hash order); all of them where None."""
    if documents is None or documents >= len(corpus.valid):
        return corpus
    return dataclasses.replace(corpus, valid=corpus.valid.first(documents))
