"""Megatron's index functions: how documents are laid out, cut, shuffled and blended, and what an end of document resets.

Exact parity, dtypes included, with megatron/core/datasets (gpt_dataset, blended_dataset, helpers.cpp) of Megatron-LM.
Random draws come from a numpy RandomState, the legacy generator, because theirs do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_SEPARATE = (
    0.80  # a last epoch asked for less of than this is shuffled on its own, so that no document is missed before
)
_PIECE = 1 << 20  # sequences laid out at a time


def n_epochs(tokens_per_epoch: int, seq_len: int, num_samples: int | None) -> int:
    """Count the epochs needed for `num_samples` samples of seq_len + 1 tokens; one where no number is asked for."""
    return 1 if num_samples is None else max(1, -(-(num_samples * seq_len + 1) // tokens_per_epoch))


def last_epoch_apart(tokens_per_epoch: int, epochs: int, seq_len: int, num_samples: int | None) -> int | None:
    """Count the samples before the last epoch where that is shuffled on its own, else None."""
    if epochs == 1 or num_samples is None:
        return None
    before = ((epochs - 1) * tokens_per_epoch - 1) // seq_len
    per_epoch = (tokens_per_epoch - 1) // seq_len
    return before if num_samples - before < int(_SEPARATE * per_epoch) else None


def document_index(indices: np.ndarray, epochs: int, rng: np.random.RandomState, apart: bool) -> np.ndarray:
    """Return int32 (epochs * len(indices),): all epochs shuffled together, or the last one on its own where `apart`."""
    if apart and epochs > 1:
        first = document_index(indices, epochs - 1, rng, False)
        return np.concatenate((first, document_index(indices, 1, rng, False)))
    laid = np.tile(np.asarray(indices, np.int32), epochs)
    rng.shuffle(laid)
    return laid


def sample_index(
    lengths: np.ndarray, documents: np.ndarray, seq_len: int, n_tokens: int, drop_last: bool = True
) -> np.ndarray:
    """Return where each sample begins, and where the last one ends: (samples + 1, 2), position in `documents` and token there.

    lengths int32 of every sequence; documents from document_index; n_tokens all tokens of all epochs. Sample k begins at
    token k * seq_len of the documents laid end to end. Without `drop_last` the last, partial sample counts too; Megatron
    rounds that number in fp32, and so does this.
    """
    if drop_last:
        n = (n_tokens - 1) // seq_len
    else:
        n = math.ceil(np.float32(n_tokens - 1) / np.float32(seq_len))
    widest = max(len(documents), int(lengths.max(initial=0)))
    rows = np.empty((n + 1, 2), np.int32 if widest <= np.iinfo(np.int32).max else np.int64)
    rows[0] = 0
    before, done = 0, 1  # tokens laid out, rows filled
    for first in range(0, len(documents), _PIECE):
        ends = np.cumsum(lengths[documents[first : first + _PIECE]], dtype=np.int64) + before
        inside = min(n, (int(ends[-1]) - 1) // seq_len)  # the last row that begins in this piece
        starts = np.arange(done, inside + 1, dtype=np.int64) * seq_len
        where = np.searchsorted(ends, starts, "right")
        begins = np.concatenate(([before], ends[:-1]))
        rows[done : inside + 1, 0] = where + first
        rows[done : inside + 1, 1] = starts - begins[where]
        before, done = int(ends[-1]), max(done, inside + 1)
    if done <= n:  # the end of a partial sample: one token short of the end, as every row
        last = int(np.flatnonzero(lengths[documents])[-1])
        rows[done:] = last, int(lengths[documents[last]]) - 1
    return rows


def shuffle_index(n_first: int, n_total: int, rng: np.random.RandomState) -> np.ndarray:
    """Return a permutation of 0 to n_first - 1, then one of the rest up to n_total; uint32."""
    dtype = np.uint32 if n_total < np.iinfo(np.uint32).max - 1 else np.int64
    first = np.arange(n_first, dtype=dtype)
    rng.shuffle(first)
    if n_first == n_total:
        return first
    rest = np.arange(n_first, n_total, dtype=dtype)
    rng.shuffle(rest)
    return np.concatenate((first, rest))


def blend(weights: Sequence[float], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which dataset gives sample k (int16), and which of its samples (int64): the one furthest behind its weight, ties
    to the first. Weights are normalised to sum 1."""
    if not len(weights) or not all(math.isfinite(w) and w > 0 for w in weights):
        raise ValueError(f"weights {list(weights)} are not all positive; leave out the datasets that are not used")
    total = np.array(weights, np.float64)
    return _greedy((total / total.sum()).tolist(), size, None)


def blend_all(sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Blend as blend() does, every sample of every dataset exactly once, in proportion to `sizes`."""
    total = sum(sizes)
    return _greedy([size / total for size in sizes], total, list(sizes))


def _greedy(weights: list[float], size: int, limits: list[int] | None) -> tuple[np.ndarray, np.ndarray]:
    chosen, sample = np.empty(size, np.int16), np.empty(size, np.int64)
    counts = [0] * len(weights)
    live = [i for i in range(len(weights)) if limits is None or limits[i] > 0]
    for k in range(size):
        step, best, most = float(max(k, 1)), live[0], -math.inf
        for i in live:
            behind = weights[i] * step - counts[i]
            if behind > most:
                best, most = i, behind
        chosen[k], sample[k] = best, counts[best]
        counts[best] += 1
        if limits is not None and counts[best] == limits[best]:
            live.remove(best)
    return chosen, sample


def split_ranges(split: str) -> list[tuple[float, float] | None]:
    """Return Megatron's --split ("969,30,1") as fractions: (begin, end) of train, valid and test; None for an empty one."""
    parts = [float(number) for number in re.findall(r"[.0-9]+", split)]
    if len(parts) > 3 or not sum(parts):
        raise ValueError(f"split '{split}' is not up to three numbers that sum to more than 0; write '99,1,0'")
    shares = (np.array(parts + [0.0] * (3 - len(parts))) / sum(parts)).tolist()
    ends = [0.0]
    for share in shares:
        ends.append(ends[-1] + share)
    return [(begin, end) if end > begin else None for begin, end in zip(ends, ends[1:])]


class Resets(NamedTuple):
    """Of the input tokens of a sample: `positions` int64, `loss_mask` uint8, `segments` int64 (which document)."""

    positions: np.ndarray
    loss_mask: np.ndarray
    segments: np.ndarray


def resets(tokens: np.ndarray, eod: int) -> Resets:
    """Return what --reset-position-ids, --eod-mask-loss and --reset-attention-mask make of the inputs (T,).

    EOD belongs to the document that it ends: positions start again behind it, and its own target, the next document's
    first token, is not learned.
    """
    ends = np.asarray(tokens) == eod
    segments = np.cumsum(ends) - ends
    starts = np.concatenate(([0], np.flatnonzero(ends) + 1))
    return Resets(np.arange(len(ends)) - starts[segments], (~ends).astype(np.uint8), segments)
