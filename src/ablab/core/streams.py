"""stdout and stderr of a command: no text of a stranger commands the terminal, and a disk that is full is said as such.

Installed once, where a command begins. A print that fails is no OSError any more: whoever writes files and prints while at
it would take it for a fault of the file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from ablab.core import places
from ablab.core.fault import CheckFailed, Fault, Interrupted, Refused
from ablab.core.plain import plain

NAMES = {"stdout": "standard output", "stderr": "standard error"}


class Unheard(BaseException):  # whoever catches every fault of a library must not take it for one
    """Whoever read the output (head, less) has left: nothing to tell it. Exit code 141, as a shell counts SIGPIPE."""

    exit_code = 141


class Outlet:
    """A stream whose text is `plain`, or, `styled`, stands as it is: for what draws tables and bars with escapes of its own.

    Every write reaches the disk's cache before it returns, so that it fails where it was made.
    """

    def __init__(self, stream: TextIO, name: str, *, styled: bool = False) -> None:
        self._stream, self._name, self._plain = stream, name, not styled
        self.styled = self if styled else Outlet(stream, name, styled=True)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write and flush. CheckFailed where there is no room; Unheard where nobody reads."""
        if not isinstance(text, str):
            raise TypeError(f"{self._name} takes text, not {type(text).__name__}")
        if not text:  # a probe; of a full device not even that is taken
            return 0
        try:
            self._stream.write(plain(text) if self._plain else text)
            self._stream.flush()
        except OSError as error:
            self._fail(error, len(text.encode(errors="replace")))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        """Do nothing: every write has done it."""

    def _fail(self, error: OSError, needed: int) -> None:
        place = self._place()
        with contextlib.suppress(OSError, ValueError):  # or the interpreter would try once more, and fail, at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        if error.errno in (errno.EIO, errno.ENXIO):  # the terminal is gone, and its work goes on
            return
        if error.errno == errno.EPIPE:
            raise Unheard from None
        told = places.unwritable(place, error, needed).faults[0].fault
        cure = "free space, or send it elsewhere, then run again"
        raise CheckFailed(Fault(f"{NAMES[self._name]} ({place})", told, cure)) from None

    def _place(self) -> Path:
        """Return the file behind the stream, where the system tells."""
        try:
            return Path(f"/proc/self/fd/{self._stream.fileno()}").readlink()
        except (OSError, ValueError):
            return Path(f"/dev/{self._name}")


def install() -> None:
    """Put both streams in place; one that the caller closed leads nowhere. Text that an encoding lacks is spelled out."""
    for name in NAMES:
        stream = getattr(sys, name)
        if stream is None:
            stream = Path(os.devnull).open("w")  # noqa: SIM115, open for the life of the process
        if isinstance(stream, Outlet):
            continue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, Outlet(stream, name))


def tell(*lines: str) -> None:
    """Say why a command ends; where that cannot be said either, its exit code says it."""
    with contextlib.suppress(Refused, Unheard):
        for line in lines:
            print(line, file=sys.stderr)


@contextlib.contextmanager
def unfinished() -> Iterator[None]:
    """Raise Interrupted, exit code 75, where whoever reads the output leaves within the block: work is undone."""
    try:
        yield
    except Unheard:
        raise Interrupted("what read the output has left") from None


def styled() -> TextIO | None:
    """Open stdout for what draws with escapes of its own; its text must be `plain` already."""
    return getattr(sys.stdout, "styled", None)
