"""Megatron's token files: PREFIX.bin holds the tokens, PREFIX.idx their sequences and documents.

.idx, little endian: magic, uint64 version 1, uint8 dtype code, uint64 sequences S, uint64 documents + 1, then int32[S]
lengths in tokens, int64[S] byte pointers into .bin, int64 document starts (from 0 to S), and int8[S] modes where the
file is multimodal (the header does not say so; the size does). .bin: the tokens, one after the other, no header.
Format: Megatron-LM, megatron/core/datasets/indexed_dataset.py. Nothing is believed before it is checked: a reader that
trusts the pointers trains on other documents than it says.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ablab.data.formats.index_file import (
    PIECE,
    bare,
    broken,
    check_documents,
    check_pointers,
    paths,
    read_columns,
    read_header,
)
from ablab.data.formats.index_writer import IndexedWriter, best_dtype
from ablab.data.formats.mapped import map_file

__all__ = [
    "Indexed",
    "IndexedWriter",
    "bare",
    "best_dtype",
    "check_sidecars",
    "open_indexed",
    "open_sidecars",
    "paths",
    "sidecars",
]
_SIDECARS = ("_lossmask", "_span")


class Indexed:
    """A .bin/.idx pair, memory-mapped. `len()` and `[i]` speak of sequences, `document(i)` of documents.

    `tokens` (1-D memmap of all of .bin), `lengths` int32 (S,), `pointers` int64 (S,), `documents` int64 (documents + 1,),
    `dtype`, `modes` (int8 (S,) of a multimodal file whose sequences are all text, else None).
    """

    def __init__(
        self,
        prefix: Path,
        tokens: np.ndarray,
        lengths: np.ndarray,
        pointers: np.ndarray,
        documents: np.ndarray,
        modes: np.ndarray | None = None,
    ) -> None:
        self.prefix, self.tokens, self.dtype = prefix, tokens, tokens.dtype
        self.lengths, self.pointers, self.documents, self.modes = lengths, pointers, documents, modes
        self._flat = np.asarray(tokens)  # slices of a memmap cost more than reading them

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        """Read the tokens of sequence `index`; IndexError beyond the last one."""
        index = _at(index, len(self), "sequences")
        start = int(self.pointers[index]) // self.dtype.itemsize
        return self._flat[start : start + int(self.lengths[index])]

    @property
    def n_documents(self) -> int:
        """Documents, those without a sequence included."""
        return len(self.documents) - 1

    def document(self, index: int) -> np.ndarray:
        """Read the tokens of document `index`, all its sequences; IndexError beyond the last one."""
        index = _at(index, self.n_documents, "documents")
        return self._flat[self._start(int(self.documents[index])) : self._start(int(self.documents[index + 1]))]

    def document_starts(self) -> np.ndarray:
        """Return where each document begins in `tokens`, and where the last one ends: int64 (documents + 1,)."""
        ends = np.append(self.pointers, len(self.tokens) * self.dtype.itemsize)
        out: np.ndarray = ends[np.asarray(self.documents)] // self.dtype.itemsize
        return out

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read tokens `start` to `stop` of the whole .bin, across sequences."""
        return self._flat[start:stop]

    def _start(self, sequence: int) -> int:
        return int(self.pointers[sequence]) // self.dtype.itemsize if sequence < len(self) else len(self._flat)


def open_indexed(prefix: Path | str) -> Indexed:
    """Open PREFIX.bin and PREFIX.idx (either name is taken too) after checking their whole structure.

    CheckFailed naming the file: missing, another magic, version or dtype, truncated or too long, pointers, lengths or
    documents that do not fit, .bin of another size, sequences that are no text.
    """
    prefix = bare(prefix)
    bin_path, idx_path = paths(prefix)
    for path, other in ((bin_path, idx_path), (idx_path, bin_path)):
        if not path.is_file():
            half = other.is_file()
            fault = f"is missing, though {other.name} is there: half-written" if half else "does not exist"
            raise broken(path, fault, "write both files again" if half else "check the prefix")
    dtype, n_sequences, n_documents = read_header(idx_path)
    lengths, pointers, documents, modes = read_columns(idx_path, n_sequences, n_documents)
    check_documents(idx_path, documents, n_sequences)
    total = check_pointers(idx_path, lengths, pointers, dtype.itemsize)
    size = bin_path.stat().st_size
    if size != total * dtype.itemsize:
        relation = "short" if size < total * dtype.itemsize else "long"
        fault = f"has {size:,} bytes, too {relation}: {idx_path.name} counts {total:,} {dtype} tokens, "
        raise broken(bin_path, f"{fault}{total * dtype.itemsize:,} bytes")
    if modes is not None and modes.any():
        where = int(np.flatnonzero(modes)[0])
        raise broken(idx_path, f"is multimodal: sequence {where} has mode {modes[where]}, not text", "give text files")
    return Indexed(prefix, map_file(bin_path, dtype, 0, total), lengths, pointers, documents, modes)


def sidecars(prefix: Path | str) -> tuple[Path, Path] | None:
    """Find the prefixes of the loss mask and of the spans beside PREFIX_tokens; None where neither has a file.

    One without the other is returned too, and fails when it is opened.
    """
    prefix = bare(prefix)
    if not prefix.name.endswith("_tokens"):
        return None
    mask, span = (prefix.with_name(prefix.name.removesuffix("_tokens") + end) for end in _SIDECARS)
    return (mask, span) if any(path.exists() for side in (mask, span) for path in paths(side)) else None


def open_sidecars(tokens: Indexed) -> tuple[Indexed, Indexed] | None:
    """Open the loss mask and the spans of `tokens`, checked against it; None where there are none (see sidecars)."""
    places = sidecars(tokens.prefix)
    if places is None:
        return None
    mask, span = map(open_indexed, places)
    check_sidecars(tokens, (mask, span))
    return mask, span


def check_sidecars(tokens: Indexed, others: Iterable[Indexed]) -> None:
    """Refuse a sidecar of which a sequence is not as long as that of the tokens, or whose documents are others."""
    for other in others:
        idx = paths(other.prefix)[1]
        cure = f"build {tokens.prefix.name} and its sidecars again, together"
        if len(other) != len(tokens):
            raise broken(idx, f"has {len(other):,} sequences, {tokens.prefix.name} has {len(tokens):,}", cure)
        for first in range(0, len(tokens), PIECE):
            ours, theirs = (side.lengths[first : first + PIECE] for side in (tokens, other))
            if len(wrong := np.flatnonzero(ours != theirs)):
                where = int(wrong[0])
                fault = f"gives sequence {first + where} {theirs[where]} values, {tokens.prefix.name} has {ours[where]} tokens"
                raise broken(idx, fault, cure)
        if not np.array_equal(tokens.documents, other.documents):
            raise broken(idx, f"has other documents than {tokens.prefix.name}", cure)


def _at(index: int, count: int, what: str) -> int:
    if not -count <= index < count:
        raise IndexError(f"there are {count} {what}")
    return index % count
