"""One process per directory."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ablab.core import places
from ablab.core.fault import Fault, Halted, InUse


@dataclass(frozen=True)
class Held:
    """A directory that this process holds."""

    directory: Path
    handle: int

    def check(self) -> None:
        """Raise Halted where the directory is no longer there, or another one: removed, moved away, or on a disk that has gone.

        Whatever is written then would be lost, or would begin a new folder without what was in this one.
        """
        try:
            there, mine = (self.directory / "lock").lstat(), os.fstat(self.handle)
            fault = "" if os.path.samestat(there, mine) else "is another folder than when this began"
        except OSError as error:
            fault = f"is gone ({error.strerror or error})"
        if fault:
            cure = "put it back and run again; without it what it held is made again"
            raise Halted(Fault(str(self.directory), fault, cure))


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[Held]:
    """Hold `directory` for this process until the block ends. The death of the holder, of any kind, frees it.

    Raises InUse naming the holder's host, process and start where another process holds it; CheckFailed where the directory
    cannot be written, and where it or its `lock` is a link.
    """
    handle = places.opened(directory / "lock", os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(handle)
            raise InUse(Fault(str(directory), f"is in use by {holder}", "wait for it, or stop it"), holder) from None
        except OSError as error:  # a file system without locks
            raise places.unwritable(directory / "lock", error) from error
        now = datetime.datetime.now().isoformat(timespec="seconds")
        # A full disk must not stop a run here: the lock is the flock, the text is for people.
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
            os.write(handle, f"pid {os.getpid()} on {socket.gethostname()} since {now}\n".encode())
        yield Held(directory, handle)
    finally:
        os.close(handle)


def holder(directory: Path) -> str:
    """Say who holds `directory` now, in words; "" where nobody does. Nothing is made, nothing is locked."""
    try:
        handle = os.open(directory / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(handle)
    except OSError:
        return ""  # whoever wants it will be told
    finally:
        os.close(handle)
    return ""


def _holder(handle: int) -> str:
    return os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
