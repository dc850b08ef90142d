"""Training batches in Megatron's own order: what GPTDataset would read, sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ablab.data.batches.megatron_order import MegatronOrder
from ablab.data.batches.stream import Batch
from ablab.data.corpus.corpus import Corpus
from ablab.data.corpus.marks import marked
from ablab.data.corpus.tokens import PLAIN, UNTRAINED
from ablab.data.formats.indexed import Indexed, open_indexed, open_sidecars


class MegatronStream:
    """Batches of the samples that Megatron's GPTDataset, or BlendedDataset, gives under this seed; O(1) access to any step.

    Step s has the samples s * rows to (s + 1) * rows - 1. The tokens are Megatron's, row by row; what ablab does with them
    is its own: attention stays within a document, and the first token of a document is no target. `n_rows`: of the whole
    run, which decides how many epochs are shuffled together. ValueError where the corpus was not made from Megatron files,
    or holds fewer samples.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        seed: int,
        weights: Sequence[float] | None,
        batch_tokens: int,
        seq_len: int,
        n_rows: int,
    ) -> None:
        if fault := unfit(corpus, weights):
            raise ValueError(fault)
        data = [open_indexed(Path(part["path"])) for part in corpus.manifest["parts"]]
        self.seq_len, self.rows, self.n_train = seq_len, batch_tokens // seq_len, corpus.n_train
        self._order = MegatronOrder(data, weights, seq_len=seq_len, seed=seed, num_samples=n_rows)
        if len(self._order) < n_rows:
            text = (
                f"the budget takes {n_rows:,} rows, and without weights each sample is read once: {len(self._order):,}"
            )
            raise ValueError(f"{text}; give data.weights, or fewer tokens")
        beside = [open_sidecars(one) for one in data]
        self._sides: tuple[list[Indexed], list[Indexed]] | None = None
        if any(beside):
            pairs = [one for one in beside if one is not None]
            self._sides = [loss for loss, _ in pairs], [span for _, span in pairs]

    def epochs(self, tokens: int) -> float:
        """Count how often a budget of `tokens` passes over the training split."""
        return tokens / self.n_train

    def batch(self, step: int) -> Batch:
        """Return the batch of 0-based `step`: (rows, seq_len)."""
        import torch

        if step < 0:
            raise ValueError(f"step = {step} is negative; the first step is 0")
        made = [self._row(sample) for sample in range(step * self.rows, (step + 1) * self.rows)]
        return Batch(*(torch.from_numpy(np.stack(column)) for column in zip(*made)))

    def _row(self, sample: int) -> tuple[np.ndarray, ...]:
        taken_U, at = self._order.tokens(sample), 0
        begins = []
        for piece in self._order.pieces(sample):
            begins.append(at)
            at += piece.stop - piece.start
        first_U = np.zeros(len(taken_U), bool)
        first_U[begins] = True
        tokens_T, targets_T = taken_U[:-1].copy(), np.where(first_U[1:], -1, taken_U[1:])
        spans_T = np.zeros_like(targets_T)
        if self._sides is not None:
            loss, span = (self._order.tokens(sample, of=side, pad=0)[:-1] for side in self._sides)
            marks_T = marked(loss, span)
            targets_T = np.where(marks_T == UNTRAINED, -1, targets_T)
            spans_T = np.where((targets_T < 0) | (marks_T == PLAIN), 0, marks_T)
        return tokens_T, targets_T, np.cumsum(first_U[:-1]), spans_T


def unfit(corpus: Corpus, weights: Sequence[float] | None) -> str:
    """Say why a corpus cannot be read in Megatron's order with these weights; "" where it can."""
    parts = corpus.manifest.get("parts") or []
    if not parts:
        return "the corpus is a copy of its own; name Megatron prefixes, and the held-out ones in data.valid_source"
    others = [part["path"] for part in parts if part["kind"] != "megatron"]
    if others:
        return f"{others[0]} is no Megatron prefix; use order = 'chunks'"
    if weights is not None and len(weights) != len(parts):
        return f"{len(weights)} weights for {len(parts)} token files; give one for each, or none"
    return ""
