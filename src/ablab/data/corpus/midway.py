"""The held-out text that a run is scored on while it trains: excerpts of some documents, chosen by their content.

Training asks for a score many times and for the whole set once, at the end, where its stages score every document. On
the way a part is enough, if it is the same one for every arm and seed, so that differences of two curves are paired.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from ablab.data.corpus.corpus import Corpus, Document, Valid
from ablab.data.corpus.tokens import UNTRAINED
from ablab.data.spans import SPANS

# A validation may cost 4% of the training up to the next one, so that all of them with the one before the first step cost
# 4.4% at ten validations, the default (8% at one).
# A token that is trained on costs three forward passes, a byte of held-out text at most one.
SHARE, PASSES = 0.04, 3
ROWS = 4  # of text in an excerpt: the first row of a document alone would know no middles


def default_bytes(validate_every: int) -> int:
    """Return the bytes of held-out text that cost at most SHARE of the training on `validate_every` tokens."""
    return max(1, int(SHARE * PASSES * validate_every))


def midway(corpus: Corpus, n_bytes: int | None, span: int) -> Corpus:
    """Return `corpus` with about `n_bytes` of its held-out text, at most; all of it where None, or where there is no more.

    Documents come in the order of their digests until the bytes are reached; of a long one an excerpt counts, whose place
    its digest draws among its targets. Excerpts are ROWS * span bytes long, or longer where documents are few. So the part
    hangs on the text alone: another tokenizer reads the same one, up to a token at each end. Text whose bytes nobody
    counted is measured in tokens. At least one target of every span that the text has is in it.
    """
    valid = corpus.valid
    counted = bool(valid.n_bytes.any())
    sizes_D = _sizes(valid, counted)
    if n_bytes is None or n_bytes >= sizes_D.sum():
        return corpus
    length, total = max(min(ROWS * span, n_bytes), _level(sizes_D, n_bytes)), 0
    wanted = {mark for mark in SPANS.values() if (valid.marks == mark).any()}
    kept: list[tuple[int, Document]] = []
    for index in np.lexsort(valid.digests.T[::-1]).tolist():
        if total + min(length, int(sizes_D[index])) > n_bytes and kept and not wanted:
            break
        piece = _excerpt(valid[index], length, _draw(valid.digests[index]), counted)
        if piece is not None:
            kept.append((index, piece))
            total += min(length, int(sizes_D[index]))
            wanted -= set(np.unique(piece.marks).tolist())
    if not kept:  # nothing is scored in any document; said elsewhere
        return corpus
    kept.sort(key=lambda one: one[0])
    ids, sizes, marks = (np.concatenate(column) for column in zip(*(piece for _, piece in kept)))
    starts = np.cumsum([0, *(len(piece.ids) for _, piece in kept[:-1])])
    chosen = [index for index, _ in kept]
    return dataclasses.replace(corpus, valid=Valid(ids, sizes, starts, valid.digests[chosen], marks))


def _measure(n_bytes: np.ndarray, counted: bool) -> np.ndarray:
    """Measure each token: its bytes, or 1 in a text whose bytes were not counted."""
    return n_bytes.astype(np.int64) if counted else np.ones(len(n_bytes), np.int64)


def _sizes(valid: Valid, counted: bool) -> np.ndarray:
    """Measure each document, int64 (D,)."""
    total = np.concatenate([[0], np.cumsum(_measure(valid.n_bytes, counted))])
    sizes_D: np.ndarray = total[valid.starts[1:]] - total[valid.starts[:-1]]
    return sizes_D


def _level(sizes_D: np.ndarray, n_bytes: int) -> int:
    """Find the shortest excerpt at which all documents together reach `n_bytes`."""
    low, high = 0, int(sizes_D.max())
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if np.minimum(sizes_D, middle).sum() >= n_bytes else (middle + 1, high)
    return low


def _draw(digest: np.ndarray) -> float:
    """Draw a number in [0, 1) that a document's content decides."""
    return int.from_bytes(digest[:8].tobytes(), "big") / 2**64


def _excerpt(document: Document, length: int, drawn: float, counted: bool) -> Document | None:
    """Cut `length` bytes around the target at the fraction `drawn` of all that is scored; None where nothing is."""
    ids, n_bytes, marks = document
    size, scored = _measure(n_bytes, counted), marks != UNTRAINED
    if not scored.any():
        return None
    ends = np.cumsum(size)
    if ends[-1] > length:
        done = np.cumsum(np.where(scored, size, 0))
        target = int(np.searchsorted(done, math.floor(drawn * done[-1]), side="right"))
        target = min(target, int(np.flatnonzero(scored)[-1]))
        begin = min(max(0, int(ends[target]) - length // 2), int(ends[-1]) - length)
        first = int(np.searchsorted(ends, begin, side="right"))
        last = max(first + 2, int(np.searchsorted(ends, begin + length, side="right")))
        first = min(first, max(0, len(ids) - 2))
        ids, n_bytes, marks = (part[first:last] for part in document)
    marks = marks.copy()
    marks[:1] = UNTRAINED  # the first token of what is read is nothing's target
    return Document(ids, n_bytes, marks) if (marks != UNTRAINED).any() else None
