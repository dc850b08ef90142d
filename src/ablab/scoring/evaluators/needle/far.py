"""What ordinary text says of far context: natural recall and context gain, on the same rows for every arm and seed."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from ablab.data import Corpus
from ablab.model.decoder import Decoder
from ablab.model.inference import FORWARD_TOKENS
from ablab.scoring.cuts import Cut, batch_of, hidden_of, nats_of
from ablab.scoring.evaluators.needle import gain, natural


def measure(
    model: Decoder, corpus: Corpus, seq_len: int, short: int, budget: int, device: torch.device
) -> dict[str, object]:
    """Measure {"natural", "gain"}: half of the budget of tokens goes to rows of seq_len, half to windows of `short`.

    Nats saved, positive where far context helps. The bins of gain have equally many windows each, so that its mean is not
    that of the text.
    """
    text = natural.excerpt(corpus)
    rows = natural.rows_of(text, seq_len, budget // 2 // seq_len)
    windows = gain.windows_of(text, rows, seq_len, short, budget // 2 // short)
    full_RT = _nats(model, text, rows, seq_len, device)
    short_WN = _nats(model, text, [window for _, window in windows], short, device)
    distances, places = natural.distances(seq_len), gain.positions(seq_len, short)
    seen = hashlib.blake2b(digest_size=16)
    for cut in (*rows, *(window for _, window in windows)):
        begin = int(text.valid.starts[cut.document])
        seen.update(text.valid.tokens[begin + cut.start : begin + cut.stop + 1].astype(np.int64).tobytes())
    forwarded = sum(cut.stop - cut.start for cut in (*rows, *(window for _, window in windows)))
    return {
        "natural": natural.recall(full_RT, natural.hits_of(text, rows), distances),
        "gain": {**gain.gain(full_RT, rows, windows, short_WN, places), "short": short},
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
