"""Copying: a segment of random tokens comes again after a lag; how many nats does the first time save the second?"""

from __future__ import annotations

import numpy as np
import torch

from ablab.core import rng
from ablab.model.decoder import FORWARD_TOKENS, Decoder

COVERAGE = 0.99  # random tokens come from the types that make up this share of held-out text: rarer ones are untrained


def segment_of(seq_len: int) -> int:
    """Count the tokens in the repeated segment: 16, less in rows shorter than 64."""
    return max(2, min(16, seq_len // 4))


def default_lags(seq_len: int) -> list[int]:
    """Return the segment, twice, four times, ... and the longest lag that fits."""
    segment = segment_of(seq_len)
    longest = seq_len - segment
    lags, lag = [], segment
    while lag < longest:
        lags.append(lag)
        lag *= 2
    return [*lags, longest]


def cost(lags: list[int], seq_len: int) -> int:
    """Count the tokens forwarded for one item at every lag."""
    return sum(lag + segment_of(seq_len) for lag in lags)


def frequent(text: np.ndarray) -> np.ndarray:
    """List the token types that make up COVERAGE of `text`, most frequent first, ties by id."""
    types, counts = np.unique(text, return_counts=True)
    order = np.lexsort((types, -counts))
    share = np.cumsum(counts[order]) / counts.sum()
    return types[order][: max(2, int(np.searchsorted(share, COVERAGE)) + 1)]


def rows(pool: np.ndarray, bos: int, lag: int, segment: int, items: int, key: str) -> np.ndarray:
    """Draw (items, lag + segment + 1): BOS, segment, random filler up to the lag, the segment again; a stream per item."""
    made = np.empty((items, lag + segment + 1), dtype=np.int64)
    for item in range(items):
        draw = rng.stream(0, "probe", key, "induction", lag, segment, item)
        made[item, 0] = bos
        made[item, 1 : lag + 1] = pool[draw.integers(len(pool), size=lag)]
        made[item, lag + 1 :] = made[item, 1 : segment + 1]
    return made


def saved(model: Decoder, rows_IT: np.ndarray, lag: int, segment: int, device: torch.device) -> np.ndarray:
    """Compute NLL(first) - NLL(repeat), nats per token of an item, without a segment's first token: none can know it."""
    step = max(1, FORWARD_TOKENS // (rows_IT.shape[1] - 1))
    per_item = []
    for at in range(0, len(rows_IT), step):
        row = torch.from_numpy(rows_IT[at : at + step]).to(device)
        tokens, targets = row[:, :-1].contiguous(), row[:, 1:].contiguous()
        nll = model.nll(tokens, targets, torch.zeros_like(tokens)).double().cpu().numpy()
        per_item.append((nll[:, 1:segment] - nll[:, lag + 1 : lag + segment]).mean(1))
    return np.concatenate(per_item)
