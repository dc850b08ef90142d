"""Files and folders in the making: their maker holds a lock on them, and whoever comes next removes those of dead makers.

An age would not do: the clock of another machine that shares the store may be days away, and a long build looks dead to it.
The kernel frees a lock with its process, however that ends. Where a file system has no locks nothing is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ablab.core import places

LOCK = ".lock"  # in a folder in the making; a folder cannot be locked itself over NFS


def temporary(path: Path) -> tuple[int, Path]:
    """Make a new empty file beside `path`, and its descriptor, which holds its lock until it is closed. OSError."""
    prefix, suffix = f".{path.name}.", ".part"
    for entry in list(os.scandir(path.parent)):
        if entry.name.startswith(prefix) and entry.name.endswith(suffix) and entry.is_file(follow_symlinks=False):
            with contextlib.suppress(OSError), _dead(Path(entry.path)):
                Path(entry.path).unlink()
    while True:
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=path.parent)
        if _held(handle, Path(name)):
            return handle, Path(name)


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
            if _held(handle, made / LOCK):
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
        with _dead(old / LOCK):
            shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _dead(path: Path) -> Iterator[None]:
    """Hold the lock of a maker that is dead. BlockingIOError where it lives."""
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _held(handle: int, path: Path) -> bool:
    """Take the lock of what was just made; False where it was swept in between."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    except OSError:  # no locks here: nobody will take it for dead either
        return True
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_ino == os.fstat(handle).st_ino:
            return True
    os.close(handle)
    return False
