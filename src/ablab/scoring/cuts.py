"""Cuts of documents that a model reads, packed into rows, and which of their targets are scored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ablab.data import Corpus
from ablab.data.corpus.tokens import UNTRAINED
from ablab.model.cross_entropy import chunk_rows
from ablab.model.decoder import FORWARD_TOKENS, Decoder
from ablab.scoring.ledger import Ledger


class Cut(NamedTuple):
    """Inputs [start, stop) of a document, read without what stands before; those from `first` on have their targets scored."""

    document: int
    start: int
    stop: int
    first: int


@dataclass(frozen=True)
class CutRows:
    """Rows of whole cuts. Every cut has an id of its own in ids_BT, and so has the padding.

    at_N: the flat place in the rows of every input whose target is scored; document_N, place_N (of the target in its
    document), offset_N (of the input in its cut) and targets_N belong to it. tokens: inputs that are no padding.
    """

    tokens_BT: Tensor
    ids_BT: Tensor
    at_N: np.ndarray
    document_N: np.ndarray
    place_N: np.ndarray
    offset_N: np.ndarray
    targets_N: np.ndarray
    tokens: int


def batches(corpus: Corpus, cuts: Iterable[Cut], width: int, tokens: int | None = None) -> Iterator[CutRows]:
    """Yield batches of rows of `width` and about `tokens` inputs; each cut goes to the first row of the batch with room.

    Made one at a time: the windows of a corpus may be a thousand times its text. Cuts are at most `width` long.
    """
    n_rows = max(1, (FORWARD_TOKENS if tokens is None else tokens) // width)
    rows: list[list[Cut]] = []
    room: list[int] = []
    for cut in cuts:
        length = cut.stop - cut.start
        row = next((i for i, free in enumerate(room) if free >= length), -1)
        if row < 0:
            if len(rows) == n_rows:
                yield batch_of(corpus, rows)
                rows, room = [], []
            row = len(rows)
            rows.append([])
            room.append(width)
        rows[row].append(cut)
        room[row] -= length
    if rows:
        yield batch_of(corpus, rows)


def batch_of(corpus: Corpus, rows: list[list[Cut]]) -> CutRows:
    """Make rows that hold these cuts, as wide as the fullest; a cut's id is its number among all."""
    valid = corpus.valid
    width = max(sum(cut.stop - cut.start for cut in row) for row in rows)
    tokens = np.full((len(rows), width), corpus.bos_id, np.int64)
    ids = np.full((len(rows), width), -1, np.int64)
    at, document, place, offset, number, read = [], [], [], [], 0, 0
    for r, row in enumerate(rows):
        column = 0
        for cut in row:
            begin, length = int(valid.starts[cut.document]), cut.stop - cut.start
            tokens[r, column : column + length] = valid.tokens[begin + cut.start : begin + cut.stop]
            ids[r, column : column + length] = number
            targets = np.arange(cut.first + 1, cut.stop + 1)
            targets = targets[valid.marks[begin + targets] != UNTRAINED]
            offset.append(targets - 1 - cut.start)
            at.append(r * width + column + offset[-1])
            document.append(np.full(len(targets), cut.document))
            place.append(targets)
            column, number, read = column + length, number + 1, read + length
    document_N, place_N = np.concatenate(document), np.concatenate(place)
    targets_N = valid.tokens[valid.starts[document_N] + place_N].astype(np.int64)
    at_N, offset_N = np.concatenate(at), np.concatenate(offset)
    rows_BT = torch.from_numpy(tokens), torch.from_numpy(ids)
    return CutRows(*rows_BT, at_N, document_N, place_N, offset_N, targets_N, read)


def hidden_of(model: Decoder, batch: CutRows, device: torch.device) -> Tensor:
    """Compute the hidden states (N, D) that the scored targets are read from."""
    hidden = model(batch.tokens_BT.to(device), batch.ids_BT.to(device)).flatten(0, 1)
    hidden_ND: Tensor = hidden[torch.from_numpy(batch.at_N).to(device)]
    return hidden_ND


def nats_of(model: Decoder, hidden_ND: Tensor, targets_N: np.ndarray, vocab_size: int) -> np.ndarray:
    """Compute -log p of each target, float64: the head over these rows alone, a bounded number of logits at once."""
    targets, rows = torch.from_numpy(targets_N).to(hidden_ND.device), chunk_rows(vocab_size)
    pieces = [
        F.cross_entropy(model.logits(hidden_ND[i : i + rows]), targets[i : i + rows], reduction="none")
        for i in range(0, len(targets), rows)
    ]
    return torch.cat(pieces).double().cpu().numpy() if pieces else np.zeros(0)


def log_p(model: Decoder, hidden_ND: Tensor) -> np.ndarray:
    """Compute the whole distribution at each row, log p float64 (N, V)."""
    log_p_NV: np.ndarray = model.logits(hidden_ND).double().log_softmax(-1).cpu().numpy()
    return log_p_NV


def score(
    ledger: Ledger | None, model: Decoder, hidden_ND: Tensor, batch: CutRows, offset_N: np.ndarray, vocab_size: int
) -> np.ndarray:
    """Compute the nats of a batch, and give them to the ledger where there is one.

    offset_N: the place of each input in the window that it counts for.
    """

    def spread(rows: np.ndarray) -> np.ndarray:
        return log_p(model, hidden_ND[torch.from_numpy(rows).to(hidden_ND.device)])

    nats_N = nats_of(model, hidden_ND, batch.targets_N, vocab_size)
    if ledger is not None:
        ledger.score(batch.document_N, batch.place_N, offset_N, nats_N, spread)
    return nats_N
