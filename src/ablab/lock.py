"""One process per directory."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from ablab import places
from ablab.fault import Fault, GateFailed


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold `directory` for this process until the block ends. The death of the holder, of any kind, frees it.

    Raises GateFailed naming the holder's host, process and start where another process holds it, where the directory cannot
    be written, and where it or its `lock` is a link.
    """
    handle = places.opened(directory / "lock", os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            raise GateFailed(Fault(str(directory), f"is in use by {holder}", "wait for it, or stop it")) from None
        except OSError as error:  # a file system without locks
            raise places.unwritable(directory / "lock", error) from error
        now = datetime.datetime.now().isoformat(timespec="seconds")
        # A full disk must not stop a run here: the lock is the flock, the text is for people.
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
            os.write(handle, f"pid {os.getpid()} on {socket.gethostname()} since {now}\n".encode())
        yield
    finally:
        os.close(handle)
