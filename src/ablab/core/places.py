"""Where this program writes: folders and files of its own, never through a link.

A store or a dataset may come from a stranger, who can have put a link where this program appends, locks or sweeps: the file
at its other end would be emptied, or grow, outside of it. So of a path that is written no part is a link, and no file that is
extended is a pipe, a device or a second name of another file. A link that a person names (`--out`) is followed once, where it
is taken (`real`, `Store`); below it there are none. Whatever changes a folder while a command works in it is a
process of this machine, and could as well write outside itself: against that nothing is promised.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ablab.core.fault import CheckFailed, Fault, Halted

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def real(path: Path) -> Path:
    """Resolve the place that a person named, its links followed, else the path itself. For what a person gives; a store's own
    parts are never asked for."""
    return Path(os.path.realpath(path)) if any(one.is_symlink() for one in (path, *path.absolute().parents)) else path


def check(path: Path) -> None:
    """Refuse a path that is a link or leads through one. CheckFailed naming the link and where it leads."""
    path = path.absolute()
    for part in (path, *path.parents):
        if part.is_symlink():
            told = "is a link" if part == path else f"lies behind the link {part}"
            fault = f"{told} that leads to {part.readlink()}, and nothing is written through a link"
            raise CheckFailed(Fault(str(path), fault, "remove the link, or name the place that it leads to"))


def folder(path: Path, *, elsewhere: str = "another --out") -> Path:
    """Make a folder with all above it; returns it. CheckFailed for a link among them, and where it cannot be made."""
    check(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error, elsewhere=elsewhere) from error
    return path


def unused(path: Path) -> None:
    """Refuse (CheckFailed) a folder to write into that is there already and holds something, or is no folder."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise CheckFailed(Fault(str(path), "is there already", "name a folder that is not"))


def opened(path: Path, flags: int) -> int:
    """Open a file of this program's own, made with its folder where it is missing (flags: with os.O_CREAT); its descriptor.

    CheckFailed for a link, a pipe, a device, a folder and a file that has a second name, and where it cannot be opened.
    """
    check(path)
    folder(path.parent)
    try:
        handle = os.open(
            path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644
        )  # a pipe would wait for ever
    except OSError as error:
        raise unwritable(path, error) from error
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        return handle
    os.close(handle)
    if not stat.S_ISREG(status.st_mode):
        raise CheckFailed(Fault(str(path), "is no regular file", "move it away"))
    fault = f"is one of {status.st_nlink} names of the same file (hard links), and the others would change with it"
    own, new = shlex.quote(str(path)), shlex.quote(f"{path}.new")
    raise CheckFailed(Fault(str(path), fault, f"give it bytes of its own: cp {own} {new} && mv {new} {own}"))


def extend(handle: int, data: bytes) -> None:
    """Write all of `data` at the end of an open file, or leave it as it was. OSError where it has no room.

    A disk that runs full takes the first part of a write: half a line would be left in a file of lines.
    """
    before = os.fstat(handle).st_size
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(handle, left) :]
    except OSError:
        os.ftruncate(handle, before)
        raise


def unwritable(
    path: Path, error: OSError, needed: int | None = None, *, more: bool = False, elsewhere: str = "another --out"
) -> Halted:
    """Word the refusal where `path` cannot be written; needed: the bytes that it was to take, more: at least those."""
    fault = f"cannot be written ({error.strerror or error})"
    if error.errno not in FULL:
        return Halted(Fault(str(path), fault, f"make it writable or choose {elsewhere}"))
    if needed is not None:
        fault += f": {'at least ' if more else ''}{needed:,} bytes are needed"
        if error.errno == errno.ENOSPC and (path.is_file() or not path.exists()):  # of a device nothing is known
            fault += f", {_free(path):,} are free"
    return Halted(Fault(str(path), fault, f"free space or choose {elsewhere}, then run again"))


@contextlib.contextmanager
def full_disk_said() -> Iterator[None]:
    """Say a full disk as Halted where no one in the block could name it better: scratch of this program's or a library's."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise unwritable(Path(error.filename or tempfile.gettempdir()), error) from error


def _free(path: Path) -> int:
    """Return the bytes that this user may still write beside `path`."""
    at = next(one for one in (path, *path.absolute().parents) if one.exists())
    disk = os.statvfs(at)
    return disk.f_bavail * disk.f_frsize
