"""Marks: what each target of a text with spans is for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ablab.data.corpus.tokens import PLAIN, UNTRAINED, Tokens


class Marks:
    """What each target is for, read in place from label-aligned sidecars: place p speaks of token p + 1."""

    def __init__(self, loss: Sequence[np.ndarray], span: Sequence[np.ndarray]) -> None:
        self._loss, self._span = Tokens(loss), Tokens(span)

    def __len__(self) -> int:
        return len(self._loss)

    def n_targets(self, ends: np.ndarray) -> int:
        """Count places trained on, but for the last of each document, behind which nothing follows. ends: (documents,)."""
        total = sum(int(np.count_nonzero(part)) for part in self._loss.parts)
        return total - int(np.count_nonzero(self._loss.rows(ends - 1, 1)))

    def rows(self, starts_B: np.ndarray, length: int) -> np.ndarray:
        """Return UNTRAINED, REASONING, FINAL, or PLAIN, of the target of each place: int64 (B, length)."""
        return marked(self._loss.rows(starts_B, length), self._span.rows(starts_B, length))


def marked(loss: np.ndarray, span: np.ndarray) -> np.ndarray:
    """Join loss mask (0, 1) and span (0, 1, 2) to one mark."""
    return np.where(loss == 0, UNTRAINED, np.where(span == 0, PLAIN, span))
