"""Whose code may run: the lever files that the user allowed, by the sha256 of their bytes.

A study may come from anyone, and what it names would run wherever it is loaded. So a file runs only where these very bytes
were allowed on this account: a file of one's configuration, named by the sha256, which no study and no store can write.
(direnv allows the files that it runs in the same way.)
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ablab.core import places
from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import write_atomic
from ablab.core.opened import read_whole

MOST_BYTES = 1 << 20  # of a lever file; ablab's largest has 16 thousand


def folder() -> Path:
    """Where allowed files are noted: ablab/trusted_levers in $XDG_CONFIG_HOME, or in ~/.config. CheckFailed without a home."""
    named = os.environ.get("XDG_CONFIG_HOME", "")
    try:
        base = (
            Path(named) if Path(named).is_absolute() else Path.home() / ".config"
        )  # a relative one counts as unset (XDG)
    except RuntimeError as error:
        fault = f"this user has no home folder ({error}), where allowed lever files are noted"
        raise CheckFailed(Fault("XDG_CONFIG_HOME", fault, "set it to a folder of yours")) from error
    return places.real(base) / "ablab" / "trusted_levers"


def read(path: Path) -> tuple[bytes, str]:
    """A lever file's bytes and their sha256. ValueError ("fault; cure") where it cannot be read."""
    try:
        text = read_whole(path, MOST_BYTES)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror or error}); give a Python file beside the study"
        ) from error
    return text, hashlib.sha256(text).hexdigest()


def allows(sha256: str) -> bool:
    """Whether the user allowed a file of these bytes."""
    return (folder() / sha256).is_file()


def allow(path: Path) -> tuple[str, Path]:
    """Let these bytes run from now on; returns their sha256 and the note whose removal takes it back.

    CheckFailed where the file cannot be read or the note not be written.
    """
    try:
        _, sha256 = read(path)
    except ValueError as error:
        fault, _, cure = str(error).partition("; ")
        raise CheckFailed(Fault("ablab levers", fault, cure)) from error
    note = places.folder(folder(), elsewhere="another XDG_CONFIG_HOME") / sha256
    write_atomic(note, f"{path.absolute()}\n")
    return sha256, note
