"""An order of a matrix's rows in which neighbours are alike, so that what comes next is easier to guess."""

from __future__ import annotations

import numpy as np

WORK = 2**32  # number differences that one matrix may cost: a few seconds; above it fewer rows are compared
NEARER = 0.9  # an order is worth its permutation where neighbours come at least a tenth nearer


def order(rows_RD: np.ndarray, work: int = WORK) -> np.ndarray:
    """Order row indices, int64 (R,): from row 0 always to the nearest (L1) of the next rows not yet taken. Deterministic.

    Every row left is compared where R * R * D is at most `work`; otherwise the first ones left, as many as fit.
    Source: parameter-golf, PR #1855 (greedy L1 row sort of tok_emb, c_q and mlp.fc).
    """
    n_rows, width = rows_RD.shape
    kind = np.int16 if rows_RD.dtype.itemsize == 1 else np.int64
    left = rows_RD.astype(kind)
    reach = min(n_rows, max(16, work // max(n_rows * width, 1)))
    window, places, unread = left[:reach].copy(), np.arange(reach), reach
    taken, here, size = np.empty(n_rows, np.int64), 0, reach
    difference = np.empty_like(window)
    for i in range(n_rows):
        taken[i], row = places[here], window[here].copy()
        if unread < n_rows:
            window[here], places[here], unread = left[unread], unread, unread + 1
        else:
            size -= 1
            window[here], places[here] = window[size], places[size]
        if size:
            np.subtract(window[:size], row, out=difference[:size])
            np.abs(difference[:size], out=difference[:size])
            here = _nearest(difference[:size], places[:size])
    return taken


def pays(rows_RD: np.ndarray) -> bool:
    """Tell whether an order is worth storing: one made on every second column must bring the columns between them nearer.

    Judged on the columns it was found on, an order of pure noise gains a fifth: the best of many rows is near by chance.
    """
    order_R, held = order(np.ascontiguousarray(rows_RD[:, ::2])), rows_RD[:, 1::2]
    return between(held[order_R]) < NEARER * between(held)


def between(rows_RD: np.ndarray) -> int:
    """Return the sum of |difference| of neighbouring rows."""
    wide = np.int16 if rows_RD.dtype.itemsize == 1 else np.int64
    step = max(1, (1 << 24) // max(rows_RD.shape[1], 1))
    total = 0
    for start in range(0, rows_RD.shape[0] - 1, step):
        piece = rows_RD[start : start + step + 1].astype(wide)
        total += int(np.abs(np.diff(piece, axis=0)).sum(dtype=np.int64))
    return total


def _nearest(distance_RD: np.ndarray, places_R: np.ndarray) -> int:
    """Return the place of the least row sum; of equal ones that of the earliest row of the matrix."""
    sums = distance_RD.sum(axis=1, dtype=np.int32 if distance_RD.dtype == np.int16 else np.int64)
    least = np.flatnonzero(sums == sums.min())
    return int(least[np.argmin(places_R[least])])
