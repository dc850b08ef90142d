"""Natural recall: in ordinary text, what does a rare pair of tokens cost when the context has held it before?"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from ablab.core import rng
from ablab.data import Corpus
from ablab.scoring.cuts import Cut

TEXT = 1 << 22  # tokens of held-out text that items are drawn from, and pairs counted in
RARE = 1e-5  # a pair is rare that makes up at most this share of it, its own document left out


@dataclass(frozen=True)
class Hits:
    """Targets of one row that end a rare pair which the row has held before.

    at_N: the target's input in the row; first_N: that of the pair's first time; distance_N: tokens back to its last time.
    """

    at_N: np.ndarray
    first_N: np.ndarray
    distance_N: np.ndarray


def excerpt(corpus: Corpus) -> Corpus:
    """Take the first documents of about TEXT tokens; they are in the order of their hashes."""
    documents = int(np.searchsorted(corpus.valid.starts[1:], TEXT, side="right"))
    return dataclasses.replace(corpus, valid=corpus.valid.first(min(max(1, documents), len(corpus.valid))))


def rows_of(corpus: Corpus, seq_len: int, rows: int) -> list[Cut]:
    """Choose at most `rows` pieces of seq_len inputs, one a document, the longest first; equal for every arm and seed."""
    draw = rng.stream(0, "probe", corpus.key, "natural", seq_len)
    inputs = np.diff(corpus.valid.starts) - 1
    order = np.lexsort((draw.permutation(len(inputs)), -np.minimum(inputs, seq_len)))
    cuts = []
    for document in order[:rows].tolist():
        length = int(inputs[document])
        start = int(draw.integers(max(0, length - seq_len) + 1))
        if length > 0:
            cuts.append(Cut(document, start, min(start + seq_len, length), start))
    return cuts


def hits_of(corpus: Corpus, rows: list[Cut]) -> list[Hits]:
    """Find the hits of every row."""
    valid = corpus.valid
    pairs = _pairs(valid.tokens, corpus.vocab_size)
    ends = valid.starts[1:-1] - 1
    pairs[ends[(ends >= 0) & (ends < len(pairs))]] = -1  # of two documents
    names, counts = np.unique(pairs, return_counts=True)
    most, hits = RARE * len(valid.tokens), []
    for row in rows:
        begin, end = (int(x) for x in valid.starts[row.document : row.document + 2])
        own, own_counts = np.unique(pairs[begin : end - 1], return_counts=True)
        here = pairs[begin + row.start : begin + row.stop]
        elsewhere = counts[np.searchsorted(names, here)] - own_counts[np.searchsorted(own, here)]
        hits.append(_repeats(here, elsewhere <= most))
    return hits


def _pairs(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Number every two neighbouring tokens."""
    wide = tokens.astype(np.int64)
    numbers: np.ndarray = wide[:-1] * vocab_size + wide[1:]
    return numbers


def _repeats(pairs_T: np.ndarray, rare_T: np.ndarray) -> Hits:
    order = np.argsort(pairs_T, kind="stable")
    same = pairs_T[order][1:] == pairs_T[order][:-1]
    begins = np.concatenate([[True], ~same])
    head = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
    at, before, firsts = order[1:][same], order[:-1][same], head[1:][same]
    kept = np.flatnonzero(rare_T[at])
    kept = kept[np.argsort(at[kept])]
    return Hits(at[kept], firsts[kept], (at - before)[kept])


def distances(seq_len: int) -> list[int]:
    """Return the edges of the bins of distance: 1, 16, 64, 256, ... seq_len."""
    edges, edge = [1], 16
    while edge < seq_len:
        edges.append(edge)
        edge *= 4
    return [*edges, max(seq_len, 2)]


def recall(nats_RT: list[np.ndarray], hits: list[Hits], edges: list[int]) -> dict[str, object]:
    """Measure nats saved at hits against the first time of the pair, by distance: means, standard errors, counts, nats."""
    saved = [nats_T[h.first_N] - nats_T[h.at_N] for nats_T, h in zip(nats_RT, hits)]
    bins = [np.searchsorted(edges, h.distance_N, side="right") - 1 for h in hits]
    there = means([nats_T[h.at_N] for nats_T, h in zip(nats_RT, hits)], bins, len(edges) - 1)
    return {"distances": edges, **means(saved, bins, len(edges) - 1), "nats": there["values"], "rows": len(hits)}


def means(values_R: list[np.ndarray], bins_R: list[np.ndarray], n_bins: int) -> dict[str, object]:
    """Compute mean, standard error over rows (tokens of a row hang together) and count of each bin, and of all, without NaN.

    A mean is None where a bin is empty, an error where fewer than two rows are in it.
    """
    sums, counts = np.zeros((len(values_R), n_bins)), np.zeros((len(values_R), n_bins))
    for row, (values, bins) in enumerate(zip(values_R, bins_R)):
        kept = ~np.isnan(values)
        sums[row] = np.bincount(bins[kept], values[kept], n_bins)
        counts[row] = np.bincount(bins[kept], minlength=n_bins)
    every = [_mean(sums[:, i], counts[:, i]) for i in range(n_bins)]
    mean, se = _mean(sums.sum(1), counts.sum(1))
    return {
        "values": [value for value, _ in every],
        "se": [error for _, error in every],
        "tokens": counts.sum(0).astype(int).tolist(),
        "mean": mean,
        "mean_se": se,
    }


def _mean(sums_R: np.ndarray, counts_R: np.ndarray) -> tuple[float | None, float | None]:
    total, rows = float(counts_R.sum()), int((counts_R > 0).sum())
    if not total:
        return None, None
    mean = float(sums_R.sum()) / total
    if rows < 2:
        return mean, None
    spread = float(((sums_R - mean * counts_R) ** 2).sum()) * rows / (rows - 1)
    return mean, spread**0.5 / total
