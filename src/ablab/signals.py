"""How a process ends before its time: interrupted by a person, or with its parent."""

from __future__ import annotations

import signal
import sys

from ablab.fault import Interrupted


def interruptible() -> None:
    """From now on Ctrl-C and SIGTERM raise Interrupted: what was begun can be gone on with."""

    def interrupt(*_: object) -> None:
        raise Interrupted

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def die_with_parent() -> None:
    """However the parent ends, even by SIGKILL, nothing goes on writing. Only Linux can; elsewhere this does nothing."""
    if sys.platform == "linux":
        import ctypes

        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
