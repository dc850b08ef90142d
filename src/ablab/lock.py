"""One process per directory."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from ablab.fault import Fault, GateFailed


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold `directory` for this process until the block ends. The death of the holder, of any kind, frees it.

    Raises GateFailed naming the holder's host, process and start where another process holds it, and where the directory
    cannot be written.
    """
    path = directory / "lock"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        fault = f"cannot be written ({error.strerror or error})"
        raise GateFailed(Fault(str(path), fault, "make it writable or choose another --out")) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise GateFailed(Fault(str(directory), f"is in use by {holder}", "wait for it, or stop it")) from None
        file.truncate(0)
        now = datetime.datetime.now().isoformat(timespec="seconds")
        # A full disk must not stop a run here: the lock is the flock, the text is for people.
        with contextlib.suppress(OSError):
            file.write(f"pid {os.getpid()} on {socket.gethostname()} since {now}\n")
            file.flush()
        yield
