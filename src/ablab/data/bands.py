"""Bands of positions: 0, 1, 2 to 3, 4 to 7, ... of a row; what is scored and what is trained is told in the same ones."""

from __future__ import annotations

import numpy as np


def band_edges(seq_len: int) -> list[int]:
    """Return 0, 1, 2, 4, 8, ... seq_len: band i holds positions edges[i] <= position < edges[i + 1]."""
    edges, edge = [0], 1
    while edge < seq_len:
        edges.append(edge)
        edge *= 2
    return [*edges, seq_len]


def trained_in_bands(ids_BT: np.ndarray, targets_BT: np.ndarray) -> np.ndarray:
    """Count the targets (those of at least 0) in each band of `band_edges(T)`; int64, one per band.

    A target's position is that of its input, counted from the start of its document in this row, as a model sees it.
    """
    length = ids_BT.shape[1]
    first_BT = np.ones(ids_BT.shape, bool)
    np.not_equal(ids_BT[:, 1:], ids_BT[:, :-1], out=first_BT[:, 1:])
    starts = np.flatnonzero(first_BT)
    # position p stands once in every stretch longer than p; few targets are left out, so they are taken off one by one
    lengths = np.bincount(np.diff(starts, append=ids_BT.size), minlength=length + 1)
    counts = lengths[::-1].cumsum()[::-1][1:]
    left_out = np.flatnonzero(targets_BT < 0)
    place = left_out - starts[np.searchsorted(starts, left_out, side="right") - 1]
    return np.add.reduceat(counts - np.bincount(place, minlength=length), band_edges(length)[:-1])
