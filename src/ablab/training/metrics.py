"""Metrics: a file of JSON lines is the truth; dashboards only mirror it (`ablab.training.mirrors`)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ablab.core import chain, opened, places
from ablab.core.files import write_atomic

WALL = ("seconds",)  # keys that hold wall time: the only ones that differ between two runs of the same thing


@dataclass(frozen=True)
class Mirrored:
    """Which dashboards copy the metrics of a run, and under which name.

    called: `study/arm/seed`, what people see; "" is the name of the run's directory, a key. boards: the folder below which
    TensorBoard's files lie, each run in the folder that it is called (that path is all TensorBoard knows of a name); None is
    the run's own directory.
    """

    names: tuple[str, ...] = ()
    called: str = ""
    boards: Path | None = None


NO_MIRRORS = Mirrored()


class Metrics:
    """Append-only JSON lines. Opening with `keep` bytes drops, atomically, all that was written after a checkpoint.

    here(): raises where the run's folder is gone, before anything is written.
    """

    def __init__(self, path: Path, *, keep: int, here: Callable[[], None] = lambda: None) -> None:
        self.path, self.here = path, here
        self.file = self._opened()  # first of all: reading what is no file of its own could wait for ever
        with opened.opened(path) as file:
            kept = file.read(keep)
        if os.fstat(self.file).st_size > keep:
            os.close(self.file)
            write_atomic(path, kept)
            self.file = self._opened()
        # the digest of the last row: the chain goes on from the bytes that are kept
        lines = kept.splitlines()
        self.head, self.rows = chain.end_of(lines[-1]) if lines else "", len(lines)
        self.size = keep

    def _opened(self) -> int:
        return places.opened(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, row: Mapping[str, object]) -> None:
        """Write one row, whole or not at all. CheckFailed where the disk is full: the rows before it stay as they were."""
        self.here()
        row = chain.linked(row, self.head, WALL)
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        try:
            places.extend(self.file, line)
        except OSError as error:
            raise places.unwritable(self.path, error, len(line)) from error
        self.size, self.head, self.rows = self.size + len(line), str(row[chain.FIELD]), self.rows + 1

    def sync(self) -> int:
        """Bring the rows to the disk; returns the file's size, which a checkpoint remembers."""
        self.here()
        try:
            os.fsync(self.file)
        except OSError as error:
            raise places.unwritable(self.path, error, self.size) from error
        return self.size

    def close(self) -> None:
        os.close(self.file)
