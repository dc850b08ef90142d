"""Paths that a pattern names, where a name that exists is a name, whatever signs are in it."""

from __future__ import annotations

import glob
import os
from pathlib import Path


def matched(pattern: str) -> list[Path]:
    """List the existing paths that `pattern` names, sorted: `*`, `?` and `[...]` stand for letters, `**` for folders.

    Each part of the path that exists as it is written is taken as it is written: `corpus [v2]/*.jsonl` reads the folder
    of that name, where there is one. Nothing is returned where nothing matches.
    """
    return sorted(_below(Path(pattern).parts, Path()), key=str)


def literal(pattern: str) -> Path | None:
    """Return the path that `pattern` names with its last part taken as it is written; None where its folder is none, or many.

    What is named so need not exist: a Megatron prefix is a name to which .bin and .idx are added.
    """
    path = Path(pattern)
    folders = [path.parent] if path.parent.exists() else [one for one in matched(str(path.parent)) if one.is_dir()]
    return folders[0] / path.name if len(folders) == 1 else None


def root_of(pattern: str) -> Path:
    """Return the folder from which `pattern` looks: its path up to the first part that stands for letters or is a file."""
    base = Path()
    for part in Path(pattern).parts:
        if part == "**" or not (base / part).is_dir():
            break
        base = base / part
    return base


def _below(parts: tuple[str, ...], base: Path) -> list[Path]:
    for number, part in enumerate(parts):
        if part != "**" and _exists(base / part):
            base = base / part
        elif not glob.has_magic(part):
            return []
        elif part == "**":
            return _anywhere(parts[number + 1 :], base)
        else:
            paths = [Path(one) for one in glob.glob(_joined(base, part))]  # noqa: PTH207
            return [path for one in paths for path in _below(parts[number + 1 :], one)]
    return [base]


def _anywhere(parts: tuple[str, ...], base: Path) -> list[Path]:
    """List what `parts` name in `base` and in all folders below it; with none, everything that lies there.

    No link is followed: one that leads up would be walked until names are too long, and one that leads out of the data
    would read what nobody named. Hidden folders are left out, as `*` leaves out what is hidden.
    """
    paths: dict[Path, None] = {}
    for folder, inside, files in os.walk(base or Path(), followlinks=False):
        inside[:] = sorted(one for one in inside if not one.startswith(".") and not Path(folder, one).is_symlink())
        here = Path(folder)
        told = _below(parts, here) if parts else [here / one for one in (*inside, *files) if not one.startswith(".")]
        paths |= dict.fromkeys(told)
    return list(paths)


def _joined(base: Path, pattern: str) -> str:
    return pattern if base == Path() else str(Path(glob.escape(str(base))) / pattern)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a name, or with a NUL: no file is called so
        return False
