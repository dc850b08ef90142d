"""Whose code may run: the lever files that the user allowed, each by its place and the sha256 of its bytes.

A study may come from anyone, and what it names would run wherever it is loaded. So a file runs only where these very bytes
were allowed at this very place on this account: a note in one's configuration, which no study and no store can write. The
place counts because code can read what lies beside it: the same bytes in a stranger's folder are another program.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from pathlib import Path

from ablab.core import places
from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import write_atomic
from ablab.core.opened import read_whole

MOST_BYTES = 1 << 20  # of a lever file; ablab's largest has 16 thousand


def folder() -> Path:
    """Return where allowed files are noted: ablab/trusted_levers in $XDG_CONFIG_HOME or ~/.config. CheckFailed without home."""
    named = os.environ.get("XDG_CONFIG_HOME", "")
    try:
        base = (
            Path(named) if Path(named).is_absolute() else Path.home() / ".config"
        )  # a relative one counts as unset (XDG)
    except RuntimeError as error:
        raise _homeless(str(error)) from error
    if not base.is_absolute():  # it would lie in the folder of the study
        raise _homeless(f"$HOME is {os.environ.get('HOME')!a}")
    return places.real(base / "ablab" / "trusted_levers")


def _homeless(why: str) -> CheckFailed:
    fault = f"this user has no home folder, where allowed lever files are noted ({why})"
    return CheckFailed(Fault("XDG_CONFIG_HOME", fault, "set it to the whole path of a folder of yours"))


def read(path: Path) -> tuple[str, str]:
    """Read a lever file's text and the sha256 of its bytes. ValueError ("fault; cure") where it cannot be read as it will run.

    Refused is what an editor does not show as Python takes it: other encodings than UTF-8, and characters that act unseen.
    """
    try:
        data = read_whole(path, MOST_BYTES)
        text = data.decode("utf-8")
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror or error}); give a Python file beside the study"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 at byte {error.start}; write it in UTF-8") from error
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        unseen = next((c for c in line if c != "\t" and unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")), None)
        if unseen is not None:
            raise ValueError(f"{path} holds {unseen!a} in line {number}, which no editor shows; take it out")
    return text, hashlib.sha256(data).hexdigest()


def allows(path: Path, sha256: str) -> bool:
    """Tell whether the user allowed a file of these bytes at this place."""
    return _note(path, sha256).is_file()


def checked(path: Path) -> str:
    """Hash a file that may be allowed (sha256). CheckFailed for any other."""
    try:
        return read(path)[1]
    except ValueError as error:
        fault, _, cure = str(error).partition("; ")
        raise CheckFailed(Fault("ablab levers", fault, cure)) from error


def allow(path: Path) -> tuple[str, Path]:
    """Let these bytes run from now on where they lie; returns their sha256 and the note whose removal takes it back.

    CheckFailed where the file cannot be read or the note not be written.
    """
    sha256 = checked(path)
    places.folder(folder(), elsewhere="another XDG_CONFIG_HOME")
    note = _note(path, sha256)
    write_atomic(note, os.fsencode(path.absolute()) + b"\n")
    return sha256, note


def _note(path: Path, sha256: str) -> Path:
    """Return the place of the note, named by both, so that neither can be changed in it."""
    return folder() / hashlib.sha256(os.fsencode(path.absolute()) + b"\0" + sha256.encode()).hexdigest()
