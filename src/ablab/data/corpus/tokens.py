"""Token files laid end to end and closed to a circle, read in place: nothing is copied but the rows that are asked for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np


class Tokens:
    """Several arrays of ids (memory-mapped files, usually) read as one; with `modulo`, ids are taken modulo that."""

    def __init__(self, parts: Sequence[np.ndarray], *, modulo: int | None = None) -> None:
        self._parts = [
            np.asarray(part) for part in parts if len(part)
        ]  # a plain view: slicing np.memmap itself is slower
        self._ends, self._modulo = np.cumsum([len(part) for part in self._parts]).tolist(), modulo

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def parts(self) -> list[np.ndarray]:
        """The arrays, one after another."""
        return list(self._parts)

    def rows(self, starts_B: np.ndarray, length: int) -> np.ndarray:
        """Read the `length` ids from each start on, going round at the end: int64 (B, length)."""
        found_BU = np.empty((len(starts_B), length), np.int64)
        for row_U, start in zip(found_BU, starts_B.tolist()):
            self._fill(row_U, start % len(self))
        return found_BU if self._modulo is None else found_BU % self._modulo

    def _fill(self, row: np.ndarray, place: int) -> None:
        done = 0
        while done < len(row):
            index = bisect_right(self._ends, place)
            part = self._parts[index]
            inside = place - (self._ends[index] - len(part))
            taken = min(len(part) - inside, len(row) - done)
            row[done : done + taken] = part[inside : inside + taken]
            done, place = done + taken, (place + taken) % self._ends[-1]


UNTRAINED, PLAIN = 0, 3  # marks: no target; 1 and 2 a target in that span; a target in no span
