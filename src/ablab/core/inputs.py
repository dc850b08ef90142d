"""sha256 of input files, remembered by what a file cannot keep when another takes its place."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

from ablab.core.fault import CheckFailed, Fault, Halted
from ablab.core.files import sha256_file, write_atomic
from ablab.core.forms import fits
from ablab.core.opened import read_whole
from ablab.core.strict_json import MOST, record

_FRESH_NS = 2_000_000_000  # a file changed this recently may change again within one tick of its clock: not remembered


def stamp_of(file: Path) -> list[int]:
    """Read size, modification time, inode and change time of a file.

    Size and modification time alone are copied by tar, rsync -t and cp -p, so a file that takes another's name can have
    them; the change time is the kernel's own, and no program can set it.
    """
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns]


class Inputs:
    """A memo of input hashes in one small JSON file. A lost or broken memo only costs time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._new: dict[str, list[int | str]] = {}
        self._known = _load(path)

    def sha256(self, file: Path) -> str:
        """Hash `file`'s content (sha256). CheckFailed where it cannot be read or changes meanwhile."""
        try:
            name, stamp = str(file.resolve()), stamp_of(file)
            known = self._known.get(name)
            if known and known[:-1] == stamp:
                return str(known[-1])
            digest, after = sha256_file(file), stamp_of(file)
        except OSError as error:
            raise CheckFailed(Fault(str(file), f"cannot be read ({error.strerror})", "check the file")) from error
        if after != stamp:
            raise CheckFailed(Fault(str(file), "changed while it was read", "run again when nothing writes to it"))
        if time.time_ns() - max(stamp[1], stamp[3]) > _FRESH_NS:
            self._new[name] = [*stamp, digest]
        return digest

    def save(self) -> None:
        """Write what was learned, merged into what other processes learned meanwhile; what cannot be written is read again."""
        if self._new:
            merged = _load(self.path) | self._new
            with contextlib.suppress(Halted):  # what has results to write will say so; who reads a store has none
                write_atomic(self.path, json.dumps(merged, indent=0, sort_keys=True) + "\n")
            self._known, self._new = merged, {}


def _load(path: Path) -> dict[str, list[int | str]]:
    try:
        stamps = record(read_whole(path, MOST))
        if fits(stamps, dict[str, list[int | str]]) and all(len(v) == 5 for v in stamps.values()):
            return stamps
        return {}
    except (OSError, ValueError):
        return {}
