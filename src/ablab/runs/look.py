"""A store as one look of a judge sees it: every record is read once, and what was absent stays absent until the next look.

Words, costs, panels and the record of decisions are then of one state of the store, whatever the runs beside it finish
meanwhile.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ablab.runs.store import Store

T = TypeVar("T")
Stamp = tuple[int, int, int]  # inode, size and time: a file written anew has another one, for it is another file


class Readings:
    """What earlier looks have read, by file; taken again while the file is the same. Looks of several threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[Stamp, Any]] = {}

    def get(self, path: str, what: str, stamp: Stamp, reader: Callable[[Path], T]) -> T:
        """Return what `reader` gives of the file `path`, or gave for another look. What it raises is not kept."""
        with self._lock:  # one reads, and whoever waits takes what it read
            known = self._known.get((path, what))
            if known is None or known[0] != stamp:
                known = self._known[path, what] = (stamp, reader(Path(path)))
            value: T = known[1]
            return value


@dataclass(frozen=True)
class Look(Store):
    """A store at one moment. Its records are shared by all who ask: nobody writes into them.

    kept: what looks before this one have read; by default nothing, and all of it is read from the files.
    """

    kept: Readings = field(default_factory=Readings, compare=False, repr=False)
    _stamps: dict[str, Stamp | None] = field(default_factory=dict, init=False, compare=False, repr=False)
    _seen: dict[tuple[str, str], Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    def since(self, path: str) -> float | None:
        stamp = self._stamp(path)
        return None if stamp is None else stamp[2] / 1e9

    def once(self, path: str, what: str, reader: Callable[[Path], T]) -> T | None:
        if (path, what) not in self._seen:
            stamp = self._stamp(path)
            self._seen[path, what] = None if stamp is None else self.kept.get(path, what, stamp, reader)
        value: T | None = self._seen[path, what]
        return value

    def _stamp(self, path: str) -> Stamp | None:
        """Return the stamp, or None of a file that was not there when this look first asked for it."""
        if path not in self._stamps:
            self._stamps[path] = None
            with suppress(FileNotFoundError, NotADirectoryError):
                of = os.stat(path)  # noqa: PTH116  a text, thousands of times: a Path takes longer than the look
                self._stamps[path] = (of.st_ino, of.st_size, of.st_mtime_ns)
        return self._stamps[path]
