"""A corpus with fewer validation documents."""

from __future__ import annotations

import dataclasses

import numpy as np

from ablab.data.corpus.corpus import Corpus


def at_least_one(*, documents: int | None, seq_len: int | None = None) -> None:
    """Refuse to score no document, or windows without a token; None asks for what is usual."""
    if documents is not None and documents < 1:
        raise ValueError(f"documents = {documents} scores nothing; give at least 1, or leave it out for all")
    if seq_len is not None and seq_len < 1:
        raise ValueError(f"seq_len = {seq_len} is no length; give at least 1, or leave it out for the trained one")


def sizes(**settings: int | None) -> None:
    """Refuse the first size below 1; None asks for what is usual."""
    for name, value in settings.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} = {value} is no size; give at least 1")


def sample(corpus: Corpus, documents: int | None) -> Corpus:
    """Return `corpus` with `documents` of its validation documents, in its order; all of them where None.

    Chosen are those of the smallest digests, so that a document's own content decides: every arm scores the same ones,
    whatever its tokenizer. ValueError where there are not so many.
    """
    if documents is None:
        return corpus
    return dataclasses.replace(corpus, valid=corpus.valid.some(chosen(corpus, documents)))


def input_lengths(corpus: Corpus, documents: int | None = None) -> list[int]:
    """Return the inputs of every document of that sample: all tokens but the last; 0 of an empty one. No text is read.

    ValueError as of `sample`.
    """
    found_D = np.maximum(0, np.diff(corpus.valid.starts) - 1)
    if documents is not None:
        found_D = found_D[chosen(corpus, documents)]
    lengths: list[int] = found_D.tolist()
    return lengths


def chosen(corpus: Corpus, documents: int) -> np.ndarray:
    """Return the numbers of these documents in the held-out text. ValueError as of `sample`."""
    if documents > len(corpus.valid):
        fault = f"documents = {documents} is more than the {len(corpus.valid)} held-out documents"
        raise ValueError(f"{fault}; give at most that, or leave it out for all")
    ranked = np.lexsort(corpus.valid.digests.T[::-1])
    return np.sort(ranked[:documents])
