"""sha256 of input files, remembered by path, size and modification time."""

from __future__ import annotations

import json
import time
from pathlib import Path

from ablab.fault import Fault, GateFailed
from ablab.files import sha256_file, write_atomic

_FRESH_NS = 2_000_000_000  # a file changed this recently may change again within one tick of its clock: not remembered


class Inputs:
    """A memo of input hashes in one small JSON file. A lost or broken memo only costs time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._new: dict[str, list[int | str]] = {}
        self._known = _load(path)

    def sha256(self, file: Path) -> str:
        """sha256 of `file`'s content. GateFailed where it cannot be read or changes meanwhile."""
        try:
            before = file.stat()
            name, stamp = str(file.resolve()), [before.st_size, before.st_mtime_ns]
            known = self._known.get(name)
            if known and known[:2] == stamp:
                return str(known[2])
            digest, after = sha256_file(file), file.stat()
        except OSError as error:
            raise GateFailed(Fault(str(file), f"cannot be read ({error.strerror})", "check the file")) from error
        if [after.st_size, after.st_mtime_ns] != stamp:
            raise GateFailed(Fault(str(file), "changed while it was read", "run again when nothing writes to it"))
        if time.time_ns() - before.st_mtime_ns > _FRESH_NS:
            self._new[name] = [*stamp, digest]
        return digest

    def save(self) -> None:
        """Write what was learned, merged into what other processes learned meanwhile."""
        if self._new:
            merged = _load(self.path) | self._new
            write_atomic(self.path, json.dumps(merged, indent=0, sort_keys=True) + "\n")
            self._known, self._new = merged, {}


def _load(path: Path) -> dict[str, list[int | str]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        ok = isinstance(found, dict) and all(isinstance(v, list) and len(v) == 3 for v in found.values())
        return found if ok else {}
    except (OSError, ValueError):
        return {}
