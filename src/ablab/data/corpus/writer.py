"""Token files of a corpus of text, written as its documents come."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from ablab.data.corpus.split import Scan


class Writer:
    """Token files of one corpus. Held-out documents go to a spool first: which are taken depends on all of them."""

    def __init__(self, part: Path, dtype: str, bos_id: int) -> None:
        self._part, self._dtype, self._bos = part, np.dtype(dtype), np.array([bos_id], dtype)
        self._starts, self._indices, self._n_tokens, self._n_bytes = array("q"), array("q"), 0, 0
        self._held: list[tuple[bytes, int, int, int]] = []  # digest, start in the spool, tokens, bytes
        self._spooled = 0
        self.taken_digests: list[bytes] = []

    def __enter__(self) -> None:
        self._tokens: IO[bytes] = (self._part / "train.tokens").open("wb")
        self._spool: IO[bytes] = (self._part / "spool.tokens").open("w+b")
        self._spool_bytes: IO[bytes] = (self._part / "spool.bytes").open("w+b")

    def __exit__(self, *_: object) -> None:
        for file in (self._tokens, self._spool, self._spool_bytes):
            file.close()

    def train(self, ids: np.ndarray, n_bytes: int, index: int) -> None:
        """Write a training document: BOS and its tokens."""
        self._starts.append(self._n_tokens)
        self._indices.append(index)
        self._tokens.write(self._bos.tobytes() + ids.astype(self._dtype).tobytes())
        self._n_tokens += 1 + len(ids)
        self._n_bytes += n_bytes

    def hold(self, ids: np.ndarray, n_bytes: np.ndarray, digest: bytes) -> None:
        """Hold a held-out document, a candidate for the validation set."""
        self._held.append((digest, self._spooled, len(ids), int(n_bytes.sum())))
        self._spool.write(ids.astype(self._dtype).tobytes())
        self._spool_bytes.write(n_bytes.astype("<u2").tobytes())
        self._spooled += len(ids)

    def leave_out(self, digests: set[bytes]) -> int:
        """Leave out held-out documents that are no candidates after all; returns how many there are."""
        before, self._held = len(self._held), [entry for entry in self._held if entry[0] not in digests]
        return before - len(self._held)

    def finish(self, valid_bytes: int, longest: int | None = None) -> dict[str, int]:
        """Choose the validation documents, write what is left to write, and say how many there are of everything."""
        taken = _take(self._held, valid_bytes, valid_bytes if longest is None else longest)
        starts, position, n_bytes = array("q"), 0, 0
        with (self._part / "valid.tokens").open("wb") as tokens, (self._part / "valid.bytes").open("wb") as sizes:
            for _, start, length, _ in taken:
                starts.append(position)
                tokens.write(self._bos.tobytes() + _cut(self._spool, start, length, self._dtype.itemsize))
                counted = _cut(self._spool_bytes, start, length, 2)
                sizes.write(b"\0\0" + counted)
                position += 1 + length
                n_bytes += int(np.frombuffer(counted, "<u2").sum(dtype=np.int64))
        (self._part / "valid.starts").write_bytes(np.array(starts, "<i8").tobytes())
        (self._part / "train.starts").write_bytes(np.array(self._starts, "<i8").tobytes())
        self.taken_digests = [digest for digest, *_ in taken]
        (self._part / "valid.digests").write_bytes(b"".join(self.taken_digests))
        for name in ("spool.tokens", "spool.bytes"):
            (self._part / name).unlink()
        self._tokens.flush()
        return {
            "train_documents": len(self._starts),
            "train_tokens": self._n_tokens,
            "train_bytes": self._n_bytes,
            "valid_documents": len(taken),
            "valid_tokens": position - len(taken),
            "valid_bytes": n_bytes,
            "unused_documents": len(self._held) - len(taken),
        }

    def train_digests(self, first: Scan) -> Iterator[bytes]:
        """Yield the digests of the documents that were written to the training split."""
        return (first.digests[index].tobytes() for index in self._indices)


def _take(held: list[tuple[bytes, int, int, int]], valid_bytes: int, longest: int) -> list[tuple[bytes, int, int, int]]:
    """Take documents of at most `longest` bytes in hash order, each where it still fits; where none fits, the shortest.

    Counted in bytes of text, so that arms with different tokenizers are scored on the same documents.
    """
    taken, left = [], valid_bytes
    for entry in sorted(held):
        if entry[3] <= min(left, longest):
            taken.append(entry)
            left -= entry[3]
    return taken or [min(held, key=lambda entry: (entry[3], entry[0]))]


def _cut(file: IO[bytes], start: int, length: int, size: int) -> bytes:
    file.seek(start * size)
    return file.read(length * size)
