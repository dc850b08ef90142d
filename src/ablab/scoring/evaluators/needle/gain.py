"""Context gain: what do the tokens far back save, against the same text with the last few tokens alone?"""

from __future__ import annotations

import numpy as np

from ablab.core import rng
from ablab.data import Corpus
from ablab.scoring.cuts import Cut
from ablab.scoring.evaluators.needle.natural import means

KEY = 2.0  # nats: a token that the far context makes so much cheaper hangs on it (LongPPL, arXiv 2410.23771)


def run_of(seq_len: int, short: int) -> int:
    """Count the targets at the end of a short window: short tokens of context for the last, one less for each before it."""
    return max(1, min(short // 16, seq_len - short))


def positions(seq_len: int, short: int) -> list[int]:
    """Return the edges of the bins of places: short, 2 short, 4 short, ... seq_len."""
    edges, edge = [short], 2 * short
    while edge < seq_len:
        edges.append(edge)
        edge *= 2
    return [*edges, max(seq_len, short + 1)]


def windows_of(corpus: Corpus, rows: list[Cut], seq_len: int, short: int, count: int) -> list[tuple[int, Cut]]:
    """Choose `count` short windows, each with the number of its row; the bins of places take turns, then the rows.

    A window is the `short` inputs that end in its run. Rows that are no longer than a short window have none.
    """
    draw = rng.stream(0, "probe", corpus.key, "gain", seq_len, short)
    edges, run, windows = positions(seq_len, short), run_of(seq_len, short), []
    long = [i for i, row in enumerate(rows) if row.stop - row.start >= short + run]
    for number in range(count if long else 0):
        i = long[number // (len(edges) - 1) % len(long)]
        last = rows[i].stop - rows[i].start - run
        bin_ = number % (len(edges) - 1)
        low, high = edges[bin_], min(edges[bin_ + 1] - 1, last)
        if low > high:  # the row does not reach this bin
            low, high = short, last
        place = rows[i].start + int(draw.integers(low, high + 1))
        windows.append((i, Cut(rows[i].document, place + run - short, place + run, place)))
    return windows


def gain(
    full_RT: list[np.ndarray],
    rows: list[Cut],
    windows: list[tuple[int, Cut]],
    short_WN: list[np.ndarray],
    edges: list[int],
) -> dict[str, object]:
    """Compute nats with the last tokens alone less nats with everything, by place in the row; positive where far context helps.

    full_RT: nats of each row by input; short_WN: of each window's run.
    """
    values: list[list[np.ndarray]] = [[] for _ in rows]
    places: list[list[np.ndarray]] = [[] for _ in rows]
    for (i, window), nats_N in zip(windows, short_WN):
        at_N = np.arange(window.first, window.stop) - rows[i].start
        values[i].append(nats_N - full_RT[i][at_N])
        places[i].append(at_N)
    saved = [np.concatenate(each) if each else np.zeros(0) for each in values]
    at = [np.concatenate(each) if each else np.zeros(0, np.int64) for each in places]
    binned = means(saved, [np.searchsorted(edges, x, side="right") - 1 for x in at], len(edges) - 1)
    every = np.concatenate(saved) if saved else np.zeros(0)
    every = every[~np.isnan(every)]
    return {"positions": edges, **binned, "key_share": float((every > KEY).mean()) if len(every) else None}
