"""Training batches: contents depend on (seed, step) alone."""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from ablab.core.rng import stream
from ablab.data.bands import trained_in_bands
from ablab.data.corpus.corpus import Corpus
from ablab.data.corpus.tokens import PLAIN, UNTRAINED, Tokens

if TYPE_CHECKING:
    import torch

REVISION = 1  # raised whenever a number that this file makes changes on purpose


class Batch(NamedTuple):
    """One step's rows, all int64: tokens, targets (-1 where there is none), document ids (constant within one), and the
    span of each target (0 none, 1 reasoning, 2 final)."""

    tokens_BT: torch.Tensor
    targets_BT: torch.Tensor
    ids_BT: torch.Tensor
    spans_BT: torch.Tensor


class Stream:
    """The training tokens in an order drawn from `seed`, cut into rows of `seq_len`; O(1) access to any step.

    An epoch is n_train // span chunks of `span` tokens, read on a circle from an offset of the epoch's own and permuted:
    stream(seed, "data", "order", epoch), with the salt behind "data" where there is one. Rows are cut from the chunks, so
    runs whose seq_len differ see the same tokens in the same order. No row reaches over a chunk's border: a document cut
    there starts again at position 0. Its next token is still the target of the token before the cut, so every token but
    the first of a document is a target, save those that the corpus's marks take out. ValueError where the sizes do not
    divide.
    """

    def __init__(
        self, corpus: Corpus, *, seed: int, salt: str = "", span: int, batch_tokens: int, seq_len: int
    ) -> None:
        for name, size in (("span", span), ("batch_tokens", batch_tokens), ("seq_len", seq_len)):
            if size < 1:
                raise ValueError(f"{name} = {size} is no positive number; give tokens")
        if span % seq_len:
            raise ValueError(
                f"seq_len = {seq_len} does not divide data.span = {span}; make span a multiple of every seq_len"
            )
        if batch_tokens % seq_len:
            cure = f"set budget.batch_tokens to {-(-batch_tokens // seq_len) * seq_len}"
            raise ValueError(f"batch_tokens = {batch_tokens} is no multiple of seq_len = {seq_len}; {cure}")
        if corpus.n_train < span:
            fault = f"the training split has {corpus.n_train} tokens, fewer than one span of {span}"
            raise ValueError(f"{fault}; give more text or a smaller seq_len and data.span")
        self.span, self.batch_tokens, self.seq_len = span, batch_tokens, seq_len
        self._seed, self._name = seed, ("data", *([salt] if salt else []), "order")
        self._tokens = corpus.tokens if isinstance(corpus.tokens, Tokens) else Tokens([corpus.tokens])
        self._starts, self._marks = corpus.documents, corpus.marks
        self._chunks = corpus.n_train // span
        self._orders: dict[int, np.ndarray] = {}

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of one pass; the n_train % span that are left out differ from epoch to epoch."""
        return self._chunks * self.span

    def epochs(self, tokens: int) -> float:
        """Count how often a budget of `tokens` passes over the training split."""
        return tokens / self.tokens_per_epoch

    def batch(self, step: int) -> Batch:
        """Return the batch of 0-based `step`, in rows of seq_len: (batch_tokens // seq_len, seq_len)."""
        import torch

        if step < 0:
            raise ValueError(f"step = {step} is negative; the first step is 0")
        start_B = self._row_starts(step)
        taken_BU = self._tokens.rows(start_B, self.seq_len + 1)
        first_BU = self._first(start_B)
        tokens_BT, targets_BT = taken_BU[:, :-1], np.where(first_BU[:, 1:], -1, taken_BU[:, 1:])
        spans_BT = np.zeros_like(targets_BT)
        if self._marks is not None:
            marks_BT = self._marks.rows(start_B, self.seq_len)
            targets_BT = np.where(marks_BT == UNTRAINED, -1, targets_BT)
            spans_BT = np.where((targets_BT < 0) | (marks_BT == PLAIN), 0, marks_BT)
        # a document begins at every first token; past the end of the circle the count goes on, so the ids still differ
        ids_BT = np.cumsum(first_BU[:, :-1], axis=1)
        ids_BT += (np.searchsorted(self._starts, start_B) - 1)[:, None]
        return Batch(
            torch.from_numpy(np.ascontiguousarray(tokens_BT)),
            torch.from_numpy(targets_BT),
            torch.from_numpy(ids_BT),
            torch.from_numpy(spans_BT),
        )

    def _first(self, start_B: np.ndarray) -> np.ndarray:
        """Tell which tokens of each row are the first of a document: bool (B, seq_len + 1)."""
        starts, total = self._starts, len(self._tokens)
        first_BU = np.zeros((len(start_B), self.seq_len + 1), bool)
        for shift in (0, total) if int(start_B.max()) + self.seq_len >= total else (0,):  # a row may go round the end
            low_B = np.searchsorted(starts, start_B - shift)
            high_B = np.searchsorted(starts, start_B - shift + self.seq_len, side="right")
            for row_U, start, low, high in zip(first_BU, start_B.tolist(), low_B.tolist(), high_B.tolist()):
                row_U[starts[low:high] + (shift - start)] = True
        return first_BU

    def _row_starts(self, step: int) -> np.ndarray:
        """Return where each row of the step begins in the token file."""
        position_B = step * self.batch_tokens + np.arange(0, self.batch_tokens, self.seq_len)
        chunk_B, inside_B = np.divmod(position_B, self.span)
        epoch_B, place_B = np.divmod(chunk_B, self._chunks)
        start_B = np.empty_like(position_B)
        for epoch in range(int(epoch_B[0]), int(epoch_B[-1]) + 1):
            here = epoch_B == epoch
            start_B[here] = self._order(epoch)[place_B[here]] + inside_B[here]
        return start_B % len(self._tokens)

    def _order(self, epoch: int) -> np.ndarray:
        """Return the starts of the chunks of an epoch, permuted. The last two epochs are kept."""
        if epoch not in self._orders:
            draws = stream(self._seed, *self._name, epoch)
            offset = int(draws.integers(self.span))
            kept = {old: self._orders[old] for old in self._orders if old == epoch - 1}
            self._orders = kept | {epoch: offset + self.span * draws.permutation(self._chunks)}
        return self._orders[epoch]


def chain(previous: str, batch: Batch) -> str:
    """Return rolling hash of the tokens consumed: blake2b over the previous hash ("" at first) and the batch's tokens.

    The rows lie in stream order, so it is equal for runs that differ in seq_len only.
    """
    digest = hashlib.blake2b(previous.encode(), digest_size=16)
    digest.update(batch.tokens_BT.cpu().numpy().astype("<i8", copy=False).tobytes())
    return digest.hexdigest()


class Batches(Protocol):
    """Batches by step, in whatever order they are read."""

    def batch(self, step: int) -> Batch:
        """Return the batch of 0-based `step`."""


class Fed:
    """A step's batch, and what is written down of it: computed when it is first asked for, and kept."""

    def __init__(self, batch: Batch, before: str) -> None:
        self.batch, self._before = batch, before

    @functools.cached_property
    def token_hash(self) -> str:
        """The rolling hash, this batch included."""
        return chain(self._before, self.batch)

    @functools.cached_property
    def positions(self) -> list[int]:
        """Targets in each band of positions."""
        counts: list[int] = trained_in_bands(self.batch.ids_BT.numpy(), self.batch.targets_BT.numpy()).tolist()
        return counts


class Feed:
    """The batches of a training, one step after another; on a device that works by itself see `ablab.data.batches.ahead`."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def take(self, step: int, before: str) -> Fed:
        """Return what step `step` (0-based) eats; `before` is the rolling hash until there."""
        return Fed(self.batches.batch(step), before)
