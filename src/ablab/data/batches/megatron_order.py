"""The order in which Megatron's GPTDataset reads documents: the same indices, sample by sample.

One dataset: its sequences ("documents" there), once per epoch and shuffled, are laid end to end and cut into samples of
T + 1 tokens that overlap by one; the samples are shuffled. Several are blended greedily by their weights. Exact parity
needs numpy's legacy RandomState with one seed per dataset, drawn in the order documents, then samples.
Rules: Megatron-LM, megatron/core/datasets (gpt_dataset, blended_dataset, helpers.cpp).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ablab.core.fault import CheckFailed, Fault
from ablab.data.batches.megatron_index import (
    Resets,
    blend,
    blend_all,
    document_index,
    last_epoch_apart,
    n_epochs,
    resets,
    sample_index,
    shuffle_index,
    split_ranges,
)
from ablab.data.formats.indexed import Indexed, paths

__all__ = [
    "DatasetOrder",
    "MegatronOrder",
    "Resets",
    "Slice",
    "blend",
    "blend_all",
    "document_index",
    "resets",
    "sample_index",
    "sequences_of",
    "shuffle_index",
    "split_ranges",
]
SEED = 1234  # Megatron's default
SURPLUS = 0.005  # samples built beyond those that a blend asks of a dataset
PAD = -1


class Slice(NamedTuple):
    """Tokens `start` to `stop` of sequence `sequence` of dataset `dataset`."""

    dataset: int
    sequence: int
    start: int
    stop: int


class DatasetOrder:
    """The samples of one dataset. `sequences`: which of its sequences are used (int32), in place of all of them.

    `document_index`, `sample_index` and `shuffle_index` are Megatron's arrays. CheckFailed for too few tokens.
    """

    def __init__(
        self,
        data: Indexed,
        seq_len: int,
        *,
        seed: int = SEED,
        num_samples: int | None = None,
        sequences: np.ndarray | None = None,
        drop_last: bool = True,
    ) -> None:
        if seq_len < 1 or (num_samples is not None and num_samples < 0):
            raise ValueError(
                f"seq_len = {seq_len} and num_samples = {num_samples} must be at least 1 and 0; raise them"
            )
        if sequences is None:
            sequences = np.arange(len(data), dtype=np.int32)
        self.data, self.seq_len = data, seq_len
        tokens = int(data.lengths[sequences].sum(dtype=np.int64))
        if tokens < 2 or (drop_last and num_samples is None and tokens <= seq_len):
            fault = f"has {tokens:,} tokens in {len(sequences):,} sequences, no sample of {seq_len:,} + 1"
            raise CheckFailed(Fault(str(paths(data.prefix)[0]), fault, "give more data or a smaller seq_len"))
        self.epochs = n_epochs(tokens, seq_len, num_samples)
        apart = last_epoch_apart(tokens, self.epochs, seq_len, num_samples)
        rng = np.random.RandomState(seed)
        self.document_index = document_index(sequences, self.epochs, rng, apart is not None)
        total = self.epochs * tokens
        self.sample_index = sample_index(data.lengths, self.document_index, seq_len, total, drop_last)
        n = len(self.sample_index) - 1
        self.shuffle_index = shuffle_index(n if apart is None else apart, n, rng)

    def __len__(self) -> int:
        return len(self.shuffle_index)

    def pieces(self, k: int, dataset: int = 0) -> list[Slice]:
        """List what sample k is made of, in order; empty sequences are left out."""
        row = int(self.shuffle_index[k])
        (first, begin), (last, end) = self.sample_index[row].tolist(), self.sample_index[row + 1].tolist()
        slices = []
        for position in range(first, last + 1):
            sequence = int(self.document_index[position])
            start = begin if position == first else 0
            stop = end + 1 if position == last else int(self.data.lengths[sequence])
            if stop > start:
                slices.append(Slice(dataset, sequence, start, stop))
        return slices


class MegatronOrder:
    """What a Megatron run reads: sample k of one dataset, or of a blend, as T + 1 tokens and the pieces they come from.

    `weights` None with several datasets: in proportion to their samples, one epoch. `split`: the part of each dataset's
    sequences that is used, (0.0, 0.8) for the first 80 %. `drop_last` False keeps a last, padded sample (validation).
    """

    def __init__(
        self,
        datasets: Sequence[Indexed],
        weights: Sequence[float] | None = None,
        *,
        seq_len: int,
        seed: int = SEED,
        num_samples: int | None = None,
        split: tuple[float, float] = (0.0, 1.0),
        drop_last: bool = True,
    ) -> None:
        if not datasets or (weights is not None and len(weights) != len(datasets)):
            raise ValueError(
                f"{len(datasets)} datasets and {len(weights or ())} weights; give a weight for each, or none"
            )
        if weights is not None and num_samples is None:
            raise ValueError("weights need num_samples; give the number of samples of the run")
        self.datasets, self.seq_len = list(datasets), seq_len
        asked: list[int | None] = [num_samples if len(datasets) == 1 else None] * len(datasets)
        if weights is not None and num_samples is not None:
            norm = (np.array(weights, np.float64) / np.sum(np.array(weights, np.float64))).tolist()
            targets = [math.ceil(num_samples * w) for w in norm]
            asked = [math.ceil(target * (1 + SURPLUS)) for target in targets]
        self.orders = [
            DatasetOrder(
                data, seq_len, num_samples=n, sequences=sequences_of(data, split), seed=seed, drop_last=drop_last
            )
            for data, n in zip(datasets, asked)
        ]
        self.dataset_index: np.ndarray | None = None
        self.dataset_sample_index: np.ndarray | None = None
        if weights is not None:
            # normalised once more in there: so does Megatron, and the last bit can decide a tie
            self.dataset_index, self.dataset_sample_index = blend(norm, sum(targets))
        elif len(datasets) > 1:
            sizes = [len(order) for order in self.orders]
            whole = num_samples is None
            size = sum(sizes) if num_samples is None else min(num_samples, sum(sizes))
            self.dataset_index, self.dataset_sample_index = blend_all(sizes) if whole else blend(sizes, size)
        self._check_enough()

    def __len__(self) -> int:
        return len(self.orders[0]) if self.dataset_index is None else len(self.dataset_index)

    def pieces(self, k: int) -> list[Slice]:
        """List where the tokens of sample k come from, in order."""
        if not 0 <= k < len(self):
            raise IndexError(f"there are {len(self)} samples")
        if self.dataset_index is None or self.dataset_sample_index is None:
            return self.orders[0].pieces(k)
        dataset = int(self.dataset_index[k])
        return self.orders[dataset].pieces(int(self.dataset_sample_index[k]), dataset)

    def tokens(self, k: int, of: Sequence[Indexed] | None = None, pad: int = PAD) -> np.ndarray:
        """Return int64 (seq_len + 1,): sample k, filled up with `pad`. `of`: sidecars to read in place of the tokens."""
        read = self.datasets if of is None else of
        row = np.full(self.seq_len + 1, pad, np.int64)
        at = 0
        for dataset, sequence, start, stop in self.pieces(k):
            row[at : at + stop - start] = read[dataset][sequence][start:stop]
            at += stop - start
        return row

    def _check_enough(self) -> None:
        if self.dataset_index is None:
            return
        for i, order in enumerate(self.orders):
            taken = int((self.dataset_index == i).sum())
            if taken > len(order):
                fault = f"gives {len(order):,} samples, the blend asks for {taken:,}"
                raise CheckFailed(Fault(str(order.data.prefix), fault, "ask for more samples or other weights"))


def sequences_of(data: Indexed, split: tuple[float, float]) -> np.ndarray:
    """Return the sequences that `split` (begin, end as fractions) takes, rounded as Megatron rounds: int32."""
    begin, end = (round(part * float(len(data))) for part in split)
    return np.arange(begin, end, dtype=np.int32)
