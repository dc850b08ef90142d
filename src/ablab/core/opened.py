"""Files that others wrote or named: opened without waiting, where they are files, and read no further than they reach.

A study, a store, a dataset or weights may come from anyone. What is named as a file may be a pipe (opening it waits for a
writer), a device (reading it never ends), a socket or a folder; what is a file may be larger than this machine's memory.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
_GIB = 1 << 30
_PIECE = 1 << 20


class NoFile(OSError):
    """What was to be a file is a pipe, a device or a socket; `strerror` says which."""


def opened(path: Path | str) -> BinaryIO:
    """Open a file for reading. OSError where it cannot be, IsADirectoryError for a folder, NoFile for all else that is none.

    Looked at before it is opened, because opening some devices does something, and after, because it may have been
    changed between the two.
    """
    _regular(os.stat(path), path)  # noqa: PTH116  `path` may be a text
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _regular(os.fstat(handle), path)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_whole(path: Path | str, most: int | None = None) -> bytes:
    """Read the bytes of a file. OSError as `opened`, and where it is larger than `most` (at rest the machine's memory)."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > (limit := memory() if most is None else most):
            raise _large(path, size, limit, "" if most is not None else " of this machine's memory")
        data = file.read(size)
        # The kernel's own files say that they hold nothing. In pieces: a read takes room for all that it is allowed.
        while size == 0 and len(data) <= limit and (piece := file.read(_PIECE)):
            data += piece
    if len(data) > limit:
        raise _large(path, len(data), limit, "")
    return data


def no_file(path: Path | str) -> str:
    """Say what there is instead of a file, for a sentence that begins with its path; "" where it is one, or nothing."""
    try:
        _regular(Path(path).stat(), path)
    except NoFile as error:
        return str(error.strerror)
    except (OSError, ValueError):
        return "is a folder" if Path(path).is_dir() else ""
    return ""


def memory() -> int:
    """Return the bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _regular(status: os.stat_result, path: Path | str) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kind = next((name for test, name in KINDS if test(status.st_mode)), "something else")
    raise NoFile(errno.EINVAL, f"is no file but {kind}", str(path))


def _large(path: Path | str, size: int, limit: int, whose: str) -> OSError:
    if limit >= _GIB:
        amount = f"{size / _GIB:,.1f} GiB, more than the {limit / _GIB:,.1f} GiB{whose}"
    else:
        amount = f"{size:,} bytes, more than the {limit:,} that such a file may have"
    return OSError(errno.EFBIG, f"has {amount}", str(path))
