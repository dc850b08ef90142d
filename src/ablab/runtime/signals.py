"""How a process ends before its time: asked to by a person, a scheduler or a terminal that is lost, or with its parent."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from ablab.core.fault import Interrupted

# What asks a process to end: a person, `kill`, a terminal that closes, and what schedulers send ahead of their own end.
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
QUIET = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)  # stay ignored where the caller had them ignored, as nohup does
Handler = Callable[[int, FrameType | None], object]


def heed(handler: Handler) -> dict[signal.Signals, Handler | int | None]:
    """Have `handler` hear every signal that asks to end; returns the handlers before, for `restore`.

    None in a thread, which Python lets hear nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    heeded = [one for one in STOPS if not (one in QUIET and signal.getsignal(one) is signal.SIG_IGN)]
    return {one: signal.signal(one, handler) for one in heeded}


@contextlib.contextmanager
def interrupting() -> Iterator[None]:
    """Raise Interrupted within the block at every signal that asks to end. Only a process's first thread hears of signals."""

    def interrupt(*_: object) -> None:
        raise Interrupted

    previous = heed(interrupt)
    try:
        yield
    finally:
        restore(previous)


def restore(previous: dict[signal.Signals, Handler | int | None]) -> None:
    """Put the handlers back."""
    for number, handler in previous.items():
        signal.signal(number, handler)


def interruptible() -> None:
    """Raise Interrupted from now on at every signal that asks to end: what was begun can be gone on with."""

    def interrupt(*_: object) -> None:
        raise Interrupted

    heed(interrupt)


def tell(text: str) -> None:
    """Say something from within a handler: straight to stderr, which nobody may be reading."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold signals to the whole group back until the block ends; a process that is started in it has them wait until `let_in`.

    SIGTERM does not wait: a process that has not begun may be ended.
    """
    group = [one for one in STOPS if one is not signal.SIGTERM]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, group)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_in() -> None:
    """Hear what was held back by the process that started this one."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


def die_with_parent() -> None:
    """End this process with its parent, even at SIGKILL: nothing goes on writing. Linux only; elsewhere nothing is done."""
    if sys.platform == "linux":
        import ctypes

        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
