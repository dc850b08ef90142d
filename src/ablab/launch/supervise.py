"""Watches one program and all that it starts: a script of its own, run as `python -I -S supervise.py REPORT PARENT WORDS...`.

What a program starts may leave its group and its session, close its environment and lose its parent (`setsid`, `nohup ... &`, a
daemon that forks twice). On Linux a process that has lost its parent is handed to the nearest one above that asked for such
(PR_SET_CHILD_SUBREAPER), which is this one: whatever the program starts stays below it, and ends with it.

REPORT is an open descriptor: a line `started`, or `failed ERRNO`; behind it `ended STATUS`. SIGTERM asks all processes to end
and kills those that are left after GRACE seconds; with SIGUSR1, and where the parent dies, they are killed at once. Elsewhere
than on Linux only the program's group is reached.
"""

from __future__ import annotations

import os
import signal
import sys
import time

GRACE = 10.0  # seconds between SIGTERM and SIGKILL: time to write a checkpoint of some GB
LOOK = 0.02  # seconds between two looks
ROUNDS = 500  # looks at what is left before it is given up: a process in an uninterruptible wait
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main(report: int, parent: int, words: list[str]) -> None:
    """Run the program to its end; whatever it has left ends, too."""
    heard = list[int]()
    for one in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(one, lambda number, _: heard.append(number))
    asked(PR_SET_CHILD_SUBREAPER, 1)
    asked(PR_SET_PDEATHSIG, signal.SIGUSR1)
    if os.getppid() != parent:
        return
    os.set_inheritable(report, False)
    program = start(words, report)
    if program:
        status, since = None, 0.0
        while status is None:
            if signal.SIGUSR1 in heard or (since and time.monotonic() - since > GRACE):
                send(program, signal.SIGKILL)
            elif heard and not since:
                since = time.monotonic()
                send(program, signal.SIGTERM)
            time.sleep(LOOK)
            status = reaped().get(program)
        while since and below() and time.monotonic() - since < GRACE and signal.SIGUSR1 not in heard:
            time.sleep(LOOK)  # what it has started may still write a checkpoint
            reaped()
        for _ in range(ROUNDS):
            if not send(program, signal.SIGKILL):
                break
            time.sleep(LOOK)
            reaped()
        os.write(report, f"ended {status}\n".encode())


def start(words: list[str], report: int) -> int:
    """Start the program in a session of its own; returns its id, 0 where it cannot be started."""
    said, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            for one in (signal.SIGTERM, signal.SIGUSR1, signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores the last two
                signal.signal(one, signal.SIG_DFL)
            asked(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.execvp(words[0], words)
        except OSError as error:
            os.write(tell, str(error.errno).encode())
        os._exit(127)
    os.close(tell)
    failed = os.read(said, 16).decode()
    os.write(report, (f"failed {failed}\n" if failed else "started\n").encode())
    return 0 if failed else child


def asked(what: int, value: int) -> None:
    """Ask the kernel for it, where it is one that knows it."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(what, int(value), 0, 0, 0)


def reaped() -> dict[int, int]:
    """Take the exit statuses of children that have ended, a signal as its negative."""
    found = dict[int, int]()
    while True:
        try:
            one, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if one == 0:
            return found
        found[one] = os.waitstatus_to_exitcode(status)


def below() -> set[int]:
    """Return all processes below this one that have not ended. Empty where there is no /proc."""
    parents = dict[int, int]()
    for one in os.scandir("/proc") if sys.platform == "linux" else ():
        if one.name.isdecimal():
            try:
                handle = os.open(f"/proc/{one.name}/stat", os.O_RDONLY)
                try:
                    state, parent = os.read(handle, 4096).rpartition(b")")[2].split()[:2]
                finally:
                    os.close(handle)
            except (OSError, ValueError):
                continue
            if state not in (b"Z", b"X"):
                parents[int(one.name)] = int(parent)
    found, new = set[int](), {os.getpid()}
    while new:
        new = {one for one, parent in parents.items() if parent in new} - found
        found |= new
    return found


def send(program: int, number: int) -> bool:
    """Send a signal to all that is below; True where there was any. Elsewhere than on Linux: to the program's group."""
    if sys.platform != "linux":
        try:
            os.killpg(program, number)
        except OSError:
            return False
        return True
    there = below()
    for one in there:
        try:
            os.kill(one, number)
        except OSError:
            continue
    return bool(there)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
