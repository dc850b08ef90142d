"""Folders in the making: held by their makers, and removed by whoever comes next where those are dead."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ablab.core import places
from ablab.core.making import dead, held

LOCK = ".lock"  # in a folder in the making; a folder cannot be locked itself over NFS


@contextlib.contextmanager
def folder(root: Path, prefix: str, suffix: str = "", *, among: str = "") -> Iterator[Path]:
    """Yield a new folder in `root`, held until the block ends and then removed, if it was not renamed.

    Folders of dead makers are removed before: those named with `among` (the prefix where it is "") and `suffix`. One that
    holds something and no lock is taken for an older version's in a folder of this program's own (there is a suffix), and
    left alone among everybody's temporary files, where it may be anybody's. CheckFailed where `root` is or lies behind a link,
    or cannot be written.
    """
    places.folder(root)
    try:
        for entry in list(os.scandir(root)):
            named = entry.name.startswith(among or prefix) and entry.name.endswith(suffix)
            if named and entry.is_dir(follow_symlinks=False):
                _sweep(Path(entry.path), unlocked=bool(suffix))
        made, handle = _new(root, prefix, suffix)
    except OSError as error:
        raise places.unwritable(root, error) from error
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(handle)


def scratch(prefix: str) -> contextlib.AbstractContextManager[Path]:
    """Make `folder` among the system's temporary files."""
    return folder(places.real(Path(tempfile.gettempdir())), prefix)


def _new(root: Path, prefix: str, suffix: str) -> tuple[Path, int]:
    while True:
        made = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=root))
        with contextlib.suppress(FileNotFoundError):  # swept as of a dead maker, a moment after it was made: once more
            handle = os.open(made / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            if held(handle, made / LOCK):
                return made, handle


def _sweep(old: Path, *, unlocked: bool) -> None:
    """Remove a folder whose maker is dead. One without a lock is of a maker that died before it had one, and empty; unlocked:
    or of a version that held none, and goes, too."""
    with contextlib.suppress(OSError):
        if old.stat().st_uid != os.getuid():
            return
        if not (old / LOCK).exists():
            if unlocked and any(old.iterdir()):
                shutil.rmtree(old, ignore_errors=True)
            else:
                old.rmdir()
            return
        with dead(old / LOCK):
            shutil.rmtree(old, ignore_errors=True)
