"""One process per directory, whatever machines share it: claims, which need no locks of the file system.

A claim is a file `claim.NNNNNN` that is made only where there is none of its number. Numbers grow; the highest holds. Its
holder touches it now and then, and a claim that nobody has touched for its lease is dead. Its age is told by the clock of
whoever keeps the files: that of a file made just now. A holder on this machine is looked for among its processes, so that
nobody waits for one that was killed. A claim that ends takes the name `free.NNNNNN`. Whoever was stopped for longer than
its lease may have been followed by another: so `Held.check` is asked before anything is published.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import math
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from ablab.core import places
from ablab.core.fault import CheckFailed, Fault, Halted, InUse
from ablab.core.forms import fits
from ablab.core.opened import NoFile, opened
from ablab.core.strict_json import record
from ablab.runtime import signals

LEASE = 60.0  # seconds without a touch after which a holder on another machine is dead; ABLAB_LEASE is another number
BEATS = 6  # touches in a lease
MOST = 4096  # bytes of a claim that are read
TURN = 0.2  # seconds between two looks of whoever waits for its turn
_NAME = re.compile(r"(claim|free)\.(\d{6,9})")


class Claimant(TypedDict):
    """Who holds, as a claim says it. machine: a start of a machine, and the processes that it shows; began: of the process."""

    pid: int
    host: str
    machine: str
    began: str
    since: str
    lease: float


@dataclass(frozen=True)
class Held:
    """A directory that this process holds by the claim `number`, whose file `handle` keeps open."""

    directory: Path
    number: int
    handle: int

    @property
    def path(self) -> Path:
        return self.directory / f"claim.{self.number:06d}"

    def check(self) -> None:
        """Raise InUse where another process took over; Halted where the directory is no longer there, or another one is.

        What is written then would mix with another's, would be lost, or would begin a new folder without what was in this one.
        """
        fault = ""
        try:
            if not os.path.samestat(self.path.lstat(), os.fstat(self.handle)):
                fault = "is another folder than when this began"
        except OSError as error:
            fault = f"is gone ({error.strerror or error})"
        self.follow()
        if fault:
            cure = "put it back and run again; without it what it held is made again"
            raise Halted(Fault(str(self.directory), fault, cure))

    def follow(self) -> None:
        """Raise InUse where a later claim than this one was made."""
        with contextlib.suppress(OSError):
            number, held = _highest(self.directory)
            if number > self.number:
                who = (held and holder(self.directory)) or "another process"
                fault = f"was taken over by {who}, since this one was not heard of for too long"
                raise InUse(Fault(str(self.directory), fault, "leave it to that one"), who)

    def release(self) -> None:
        """Give it back, if it is still this process's own."""
        with contextlib.suppress(OSError):
            if os.path.samestat(self.path.lstat(), os.fstat(self.handle)):
                self.path.rename(self.directory / f"free.{self.number:06d}")


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[Held]:
    """Hold `directory` for this process until the block ends. The death of the holder, of any kind, frees it.

    Raises InUse naming the holder's host, process and start where another process holds it, and behind a fault of the block
    where another one took over; CheckFailed where the directory cannot be written, and where it or its claim is a link.
    """
    lease, maker, over = _lease(), os.getpid(), threading.Event()
    held = _claimed(directory, lease)
    beats = threading.Thread(target=_beat, args=(held.path, lease, over), name="ablab-claim", daemon=True)
    with signals.held_back():  # signals are the main thread's to hear
        beats.start()
    try:
        yield held
    except Exception:
        held.follow()  # what failed may have been swept by whoever took over
        raise
    finally:
        over.set()
        if os.getpid() == maker:  # else a copy of that process, which goes on
            held.release()
        os.close(held.handle)


@contextlib.contextmanager
def in_turn(directory: Path, say: Callable[[str], None] = lambda text: None) -> Iterator[Held]:
    """Hold `directory` as `locked` does, once it is free; say: hears once for whom this waits."""
    with contextlib.ExitStack() as stack:
        said = False
        while True:
            try:
                held = stack.enter_context(locked(directory))
                break
            except InUse as other:
                if not said:
                    say(f"{directory} is in use by {other.holder}: waits for it")
                said = True
                time.sleep(TURN)
        yield held


def holder(directory: Path) -> str:
    """Say who holds `directory` now, in words; "" where nobody does. Nothing is locked, and nothing stays that is made."""
    try:
        number, held = _highest(directory)
        return _holder(directory, number) if held else ""
    except (OSError, CheckFailed):
        return ""  # whoever wants it will be told


def _claimed(directory: Path, lease: float) -> Held:
    """Make the next claim. InUse where that of another process holds."""
    places.folder(directory)
    try:
        number, held = _highest(directory)
        if held and (who := _holder(directory, number)):
            raise InUse(Fault(str(directory), f"is in use by {who}", "wait for it, or stop it"), who)
        mine = directory / f"claim.{number + 1:06d}"
        handle = os.open(mine, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise _overtaken(directory) from None
    except OSError as error:
        raise places.unwritable(directory / "claim", error) from error
    # A full disk must not stop a run here: the claim is the file, its text tells more.
    with contextlib.suppress(OSError):
        os.write(handle, json.dumps(_myself(lease)).encode())
    made = Held(directory, number + 1, handle)
    try:
        if _highest(directory)[0] != made.number:  # this process slept before it made it, others have come and gone
            mine.unlink(missing_ok=True)
            raise _overtaken(directory)
        _sweep(directory, made.number)
    except BaseException:
        os.close(handle)
        raise
    return made


def _overtaken(directory: Path) -> InUse:
    who = holder(directory) or "another process"
    return InUse(Fault(str(directory), f"is in use by {who}", "wait for it, or stop it"), who)


def _highest(directory: Path) -> tuple[int, bool]:
    """Return the number of the last claim, 0 where there was none, and whether it was not given back."""
    found = {(int(m[2]), m[1] == "claim") for entry in os.scandir(directory) if (m := _NAME.fullmatch(entry.name))}
    return max(found, default=(0, False))


def _sweep(directory: Path, number: int) -> None:
    """Remove the claims before `number`."""
    for entry in list(os.scandir(directory)):
        if (match := _NAME.fullmatch(entry.name)) and int(match[2]) < number:
            with contextlib.suppress(OSError):
                Path(entry.path).unlink()


def _holder(directory: Path, number: int) -> str:
    """Say who holds by the claim `number`; "" where that process is gone. CheckFailed for what is no claim."""
    path = directory / f"claim.{number:06d}"
    places.check(path)
    try:
        with opened(path) as file:  # which asks the server anew for its time, where a look might be an old one
            touched, text = os.fstat(file.fileno()).st_mtime, file.read(MOST)
    except FileNotFoundError:
        return ""  # given back a moment ago
    except OSError as error:
        said = error.strerror if isinstance(error, NoFile) else f"cannot be read ({error.strerror or error})"
        raise CheckFailed(Fault(str(path), str(said), "move it away")) from error
    who = _read(text)
    if who and who["machine"] == _machine() and not _lives(who["pid"], who["began"]):
        return ""
    lease = who["lease"] if who else LEASE
    with contextlib.suppress(OSError):  # where nothing can be made, its age cannot be told
        if _now(directory) - touched >= lease:
            return ""
    return f"pid {who['pid']} on {who['host'][:200]} since {who['since'][:40]}" if who else "another process"


def _read(text: bytes) -> Claimant | None:
    """Read what a claim says; None where it was left empty, or is none of this program's."""
    try:
        said = record(text)
    except ValueError:
        return None
    return said if fits(said, Claimant) and 0 < said["lease"] < math.inf and said["pid"] > 0 else None


def _now(directory: Path) -> float:
    """Return the time by the clock of whoever keeps the files of `directory`."""
    probe = directory / f".now.{uuid.uuid4().hex}.part"
    handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)
        with contextlib.suppress(OSError):
            probe.unlink()


def _beat(path: Path, lease: float, over: threading.Event) -> None:
    """Keep a claim alive until it is over. A server that is away for a while is asked again: `Held.check` says what is lost."""
    while not over.wait(lease / BEATS):
        with contextlib.suppress(OSError):
            os.utime(path)


def _lease() -> float:
    """Return the seconds that the claims of this process live without a touch. CheckFailed for what is no number of seconds."""
    text = os.environ.get("ABLAB_LEASE", "").strip()
    try:
        lease = float(text or LEASE)
    except ValueError:
        lease = math.nan
    if not 0 < lease < math.inf:
        fault = f"'{text}' is no number of seconds"
        raise CheckFailed(Fault("ABLAB_LEASE", fault, f"write seconds, or leave it out for {LEASE:g}"))
    return lease


def _myself(lease: float) -> Claimant:
    now, pid = datetime.datetime.now().isoformat(timespec="seconds"), os.getpid()
    return {
        "pid": pid, "host": socket.gethostname(), "machine": _machine(), "began": _process(pid)[1], "since": now,
        "lease": lease,
    }  # fmt: skip


@functools.cache
def _machine() -> str:
    """Identify this start of this machine and, in a container, its own processes: within it a pid means one process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{uuid.getnode():x}"


def _lives(pid: int, began: str) -> bool:
    """Tell whether the process `pid` of this machine is there, and the one that began at `began`."""
    state, at = _process(pid)
    if at:
        return state not in "ZX" and at == began
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return True


def _process(pid: int) -> tuple[str, str]:
    """Return the state of a process and when it began, in the kernel's words; two empty texts where that is not told."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return words[0], words[19]
    except (OSError, IndexError):
        return "", ""
