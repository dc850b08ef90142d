"""Files and folders in the making: their maker holds a lock on them, and whoever comes next removes those of dead makers.

An age would not do: the clock of another machine that shares the store may be days away, and a long build looks dead to it.
The kernel frees a lock with its process, however that ends. Where a file system has no locks nothing is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def temporary(path: Path) -> tuple[int, Path]:
    """Make a new empty file beside `path`, and its descriptor, which holds its lock until it is closed. OSError."""
    prefix, suffix = f".{path.name}.", ".part"
    for entry in list(os.scandir(path.parent)):
        if entry.name.startswith(prefix) and entry.name.endswith(suffix) and entry.is_file(follow_symlinks=False):
            with contextlib.suppress(OSError), dead(Path(entry.path)):
                Path(entry.path).unlink()
    while True:
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=path.parent)
        if held(handle, Path(name)):
            return handle, Path(name)


@contextlib.contextmanager
def dead(path: Path) -> Iterator[None]:
    """Hold the lock of a maker that is dead. BlockingIOError where it lives."""
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def held(handle: int, path: Path) -> bool:
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
