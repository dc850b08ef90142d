"""What ordinary text says of far context: natural recall and context gain, on the same rows for every arm and seed."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from ablab.core import rng
from ablab.data import Corpus
from ablab.model.decoder import FORWARD_TOKENS, Decoder
from ablab.scoring.cuts import Cut, batch_of, hidden_of, nats_of
from ablab.scoring.evaluators.needle import natural

KEY = 2.0  # nats: a token that the far context makes so much cheaper hangs on it (LongPPL, arXiv 2410.23771)


def measure(
    model: Decoder, corpus: Corpus, seq_len: int, short: int, budget: int, device: torch.device
) -> dict[str, object]:
    """Measure {"natural", "gain"}: half of the budget of tokens goes to rows of seq_len, half to windows of `short`.

    Nats saved, positive where far context helps. The bins of gain have equally many windows each, so that its mean is not
    that of the text.
    """
    text = natural.excerpt(corpus)
    rows = natural.rows_of(text, seq_len, budget // 2 // seq_len)
    windows = windows_of(text, rows, seq_len, short, budget // 2 // short)
    full_RT = _nats(model, text, rows, seq_len, device)
    short_WN = _nats(model, text, [window for _, window in windows], short, device)
    distances, places = natural.distances(seq_len), positions(seq_len, short)
    seen = hashlib.blake2b(digest_size=16)
    for cut in (*rows, *(window for _, window in windows)):
        begin = int(text.valid.starts[cut.document])
        seen.update(text.valid.tokens[begin + cut.start : begin + cut.stop + 1].astype(np.int64).tobytes())
    forwarded = sum(cut.stop - cut.start for cut in (*rows, *(window for _, window in windows)))
    return {
        "natural": natural.recall(full_RT, natural.hits_of(text, rows), distances),
        "gain": {**gain(full_RT, rows, windows, short_WN, places), "short": short},
        "natural_tokens": forwarded,
        "natural_hash": seen.hexdigest(),
    }


def _nats(model: Decoder, corpus: Corpus, cuts: list[Cut], width: int, device: torch.device) -> list[np.ndarray]:
    """Compute the nats of the scored inputs of each cut; NaN where the text says that a target is not scored."""
    nats = [np.full(cut.stop - cut.first, np.nan) for cut in cuts]
    step = max(1, FORWARD_TOKENS // width)
    for at in range(0, len(cuts), step):
        here = cuts[at : at + step]
        batch = batch_of(corpus, [[cut] for cut in here])
        nats_N = nats_of(model, hidden_of(model, batch, device), batch.targets_N, corpus.vocab_size)
        row_N = batch.at_N // batch.tokens_BT.shape[1]
        for row, cut in enumerate(here):
            own = row_N == row
            nats[at + row][batch.offset_N[own] - (cut.first - cut.start)] = nats_N[own]
    return nats


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
    binned = natural.means(saved, [np.searchsorted(edges, x, side="right") - 1 for x in at], len(edges) - 1)
    every = np.concatenate(saved) if saved else np.zeros(0)
    every = every[~np.isnan(every)]
    return {"positions": edges, **binned, "key_share": float((every > KEY).mean()) if len(every) else None}
