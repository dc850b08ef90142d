"""Validation documents as rows: non-overlapping windows, every target exactly once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ablab.data.corpus.corpus import Corpus
from ablab.data.corpus.tokens import PLAIN, UNTRAINED

_OPEN = 32  # rows that may still take a window: bounds the search, wastes little


@dataclass(frozen=True)
class ValidRows:
    """Rows of windows, all int64 (R, T). Padding has target -1, document -1 and an id of its own; a target that is not to
    be scored is -1 too.

    tokens, targets; ids: one per window (context never reaches over a window's border); document: index into
    corpus.valid; offset: place inside the window; place: place of the input in the document (0 is its first token);
    n_bytes: bytes of the target; spans: span of the target (0 none, 1 reasoning, 2 final).
    """

    tokens_RT: np.ndarray
    targets_RT: np.ndarray
    ids_RT: np.ndarray
    document_RT: np.ndarray
    offset_RT: np.ndarray
    place_RT: np.ndarray
    n_bytes_RT: np.ndarray
    spans_RT: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens_RT)


def valid_rows(corpus: Corpus, seq_len: int, *, windows: int = 1) -> ValidRows:
    """Cut documents into windows: window k has the inputs [kT, (k+1)T) of the tokens, and each input's next token as target.

    The last token has no next one and is no input, so every token but the first is a target at most once: those that
    the marks take out are -1. Full windows have a row each; shorter ones share rows, each going to the first row with
    room. T is seq_len, or `windows` times the longest window where that is less. ValueError for seq_len < 1.
    """
    if seq_len < 1:
        raise ValueError(f"seq_len = {seq_len} is no positive number; give tokens")
    cuts, places = _windows(corpus, seq_len), []
    width = min(seq_len, windows * max((stop - start for _, start, stop in cuts), default=1))
    n_rows, room = 0, dict[int, int]()  # row -> tokens still free, oldest row first
    for _, start, stop in cuts:
        length = stop - start
        row = next((row for row, free in room.items() if free >= length), -1)
        if row < 0:
            row, n_rows = n_rows, n_rows + 1
            room[row] = width
            if len(room) > _OPEN:
                del room[min(room, key=lambda old: (room[old], old))]
        places.append((row, width - room[row]))
        room[row] -= length
        if not room[row]:
            del room[row]
    rows = _empty(n_rows, width, corpus.bos_id, len(cuts))
    last, ids, n_bytes, marks = -1, np.empty(0), np.empty(0), np.empty(0)
    for number, ((index, start, stop), (row, column)) in enumerate(zip(cuts, places)):
        if index != last:
            last, (ids, n_bytes, marks) = index, corpus.valid[index]
        cut = (row, slice(column, column + stop - start))
        rows.tokens_RT[cut] = ids[start:stop]
        mark = marks[start + 1 : stop + 1]
        rows.targets_RT[cut] = np.where(mark == UNTRAINED, -1, ids[start + 1 : stop + 1])
        rows.n_bytes_RT[cut] = n_bytes[start + 1 : stop + 1]
        rows.spans_RT[cut] = np.where(mark == PLAIN, 0, mark)
        rows.ids_RT[cut] = number
        rows.document_RT[cut] = index
        rows.offset_RT[cut] = np.arange(stop - start)
        rows.place_RT[cut] = np.arange(start, stop)
    return rows


def _windows(corpus: Corpus, seq_len: int) -> list[tuple[int, int, int]]:
    """List (document, first input, end) of every window, in order."""
    lengths = np.diff(corpus.valid.starts) - 1  # inputs: all tokens but the last
    return [
        (index, start, min(start + seq_len, length))
        for index, length in enumerate(lengths.tolist())
        for start in range(0, length, seq_len)
    ]


def _empty(n_rows: int, width: int, bos_id: int, n_windows: int) -> ValidRows:
    def full(value: int) -> np.ndarray:
        return np.full((n_rows, width), value, np.int64)

    ids_RT = full(n_windows) + np.arange(n_rows)[:, None]  # padding: one id per row, beyond every window's
    return ValidRows(full(bos_id), full(-1), ids_RT, full(-1), *(full(0) for _ in range(4)))
