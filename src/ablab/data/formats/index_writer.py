"""Writing Megatron's token files, byte for byte as its builder does."""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ablab.core import making, places
from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import atomic
from ablab.data.formats.index_file import CODES, HEADER, MAGIC, paths

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


def best_dtype(vocab_size: int) -> np.dtype:
    """Return Megatron's choice: uint16 below 65500 ids, else int32."""
    return np.dtype("<u2") if vocab_size < 65500 else np.dtype("<i4")


class IndexedWriter:
    """Writes PREFIX.bin and PREFIX.idx, byte for byte as Megatron's builder does; a context manager.

    Both files appear at its end, .bin first, or not at all. `vocab_size`, where given, bounds every id. CheckFailed for
    an id that the dtype or the vocabulary cannot hold, a document that was not ended, a file that cannot be written.
    """

    def __init__(self, prefix: Path | str, dtype: DTypeLike, *, vocab_size: int | None = None) -> None:
        self.prefix, self.dtype, self.vocab_size = Path(prefix), np.dtype(dtype).newbyteorder("<"), vocab_size
        self._code = {name: code for code, name in CODES.items()}.get(self.dtype.name, 0)
        if self.dtype.kind not in "iu" or not self._code:
            raise self._refuse(
                f"dtype {self.dtype.name} holds no token ids", "use uint8, int8, uint16, int16, int32 or int64"
            )
        limit = int(np.iinfo(self.dtype).max)
        if vocab_size is not None and vocab_size - 1 > limit:
            fault = f"dtype {self.dtype.name} holds ids up to {limit:,}, too small for a vocabulary of {vocab_size:,}"
            raise self._refuse(fault, f"use {best_dtype(vocab_size).name}")
        self._least = int(np.iinfo(self.dtype).min) if vocab_size is None else 0
        self._limit = limit if vocab_size is None else vocab_size - 1
        self._lengths, self._documents, self.n_tokens = array("i"), array("q", [0]), 0

    def __enter__(self) -> IndexedWriter:
        path = paths(self.prefix)[0]
        try:
            for one in paths(self.prefix):
                places.check(one)
            places.folder(path.parent, elsewhere="another place")
            handle, self._part = making.temporary(path)
        except OSError as error:
            raise self._unwritable(error, 0) from error
        self._file = os.fdopen(handle, "wb", buffering=1 << 20)
        return self

    def add(self, ids: Sequence[int] | np.ndarray) -> None:
        """Add one sequence of token ids; it belongs to the document that the next end_document() ends."""
        values = self._checked(ids)
        self._write(values)
        self._lengths.append(len(values))

    def end_document(self) -> None:
        """End the document of the sequences added since the last call; none is an empty document."""
        self._documents.append(len(self._lengths))

    def add_documents(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        """Add many documents of one sequence each at once: their ids one after the other, and their lengths."""
        values, sizes = self._checked(ids), np.asarray(lengths, np.int64)
        if int(sizes.sum()) != len(values) or (sizes < 0).any():
            raise ValueError(
                f"lengths sum to {int(sizes.sum())}, there are {len(values)} ids; give each document's length"
            )
        first = len(self._lengths)
        self._write(values)
        self._lengths.frombytes(sizes.astype(np.intc).tobytes())
        self._documents.frombytes((first + 1 + np.arange(len(sizes), dtype=np.int64)).tobytes())

    def __exit__(self, kind: object, *_: object) -> None:
        bin_path, idx_path = paths(self.prefix)
        try:
            if kind is None:
                self._flush()
                if self._documents[-1] != len(self._lengths):
                    loose = len(self._lengths) - self._documents[-1]
                    raise self._refuse(
                        f"{loose} sequences belong to no document", "call end_document() after each document"
                    )
                index = self._index()
                with atomic(idx_path, len(index)) as part:
                    part.write_bytes(index)
                    idx_path.unlink(missing_ok=True)  # an old index must not lie beside the new tokens
                    self._part.chmod(0o644)
                    self._part.replace(bin_path)
        finally:
            self._part.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # what a full disk has not taken: already said, or of no use any more
                self._file.close()

    def _index(self) -> bytes:
        lengths = np.array(self._lengths, "<i4")
        pointers = (np.cumsum(lengths, dtype=np.int64) - lengths) * self.dtype.itemsize
        header = HEADER.pack(MAGIC, 1, self._code, len(lengths), len(self._documents))
        starts = np.array(self._documents, "<i8")
        return b"".join((header, lengths.tobytes(), pointers.astype("<i8").tobytes(), starts.tobytes()))

    def _checked(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        values = np.asarray(ids)
        if values.ndim != 1 or (values.dtype.kind not in "iu" and len(values)):
            raise ValueError(f"ids are {values.dtype} of shape {values.shape}; give integers in one dimension")
        if len(values) > np.iinfo(np.int32).max:
            raise self._refuse(f"{len(values):,} ids at once; a length is an int32", "cut the sequence")
        if len(values) and (self.vocab_size is not None or not np.can_cast(values.dtype, self.dtype, "safe")):
            low, high = int(values.min()), int(values.max())
            if low < self._least or high > self._limit:
                odd = low if low < self._least else high
                what = (
                    f"a vocabulary of {self.vocab_size:,}"
                    if self.vocab_size is not None
                    else f"dtype {self.dtype.name}"
                )
                fault = f"token id {odd} is outside of {what} ({self._least} to {self._limit})"
                raise self._refuse(
                    fault, "use a wider dtype" if self.vocab_size is None else "use the tokenizer of the ids"
                )
        return values

    def _write(self, values: np.ndarray) -> None:
        try:
            self._file.write(values.astype(self.dtype, copy=False).tobytes())
        except OSError as error:
            raise self._unwritable(error, len(values)) from error
        self.n_tokens += len(values)

    def _flush(self) -> None:
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritable(error, 0) from error

    def _unwritable(self, error: OSError, further: int) -> CheckFailed:
        needed = (self.n_tokens + further) * self.dtype.itemsize
        return places.unwritable(paths(self.prefix)[0], error, needed, more=True, elsewhere="another place")

    def _refuse(self, fault: str, cure: str) -> CheckFailed:
        return CheckFailed(Fault(str(paths(self.prefix)[0]), fault, cure))
