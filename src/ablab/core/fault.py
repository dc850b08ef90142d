"""What can be wrong, said with place, fault and cure."""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablab.core.plain import plain


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where it stands, what is wrong, and what to do about it."""

    place: str
    fault: str
    cure: str = ""

    def __str__(self) -> str:
        """Word the fault as one text for people, whatever a stranger's file put into it (`ablab.core.plain`)."""
        return plain(f"{self.place}: {self.fault}" + (f"; {self.cure}" if self.cure else ""))


class Refused(Exception):
    """Work that must not go on; carries every fault found. `exit_code` is what the command line returns."""

    exit_code = 4

    def __init__(self, faults: Fault | Iterable[Fault]) -> None:
        self.faults: tuple[Fault, ...] = (faults,) if isinstance(faults, Fault) else tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))


class InvalidStudy(Refused):
    """The study file cannot mean anything: exit code 3."""

    exit_code = 3


class CheckFailed(Refused):
    """A check does not hold: of data, a checkpoint, a store, or of an arm that changes nothing. Exit code 4."""

    exit_code = 4


class Halted(CheckFailed):
    """What every other run would meet as well: a disk that is full or cannot be written, a folder that is gone."""


class InUse(CheckFailed):
    """Another process holds what this one wants; `holder` says which. It may be waited for."""

    def __init__(self, fault: Fault, holder: str) -> None:
        super().__init__(fault)
        self.holder = holder


class OutOfMemory(CheckFailed):
    """A run needs more memory than there is. Other runs may fit."""


class Interrupted(BaseException):
    """Stopped by a signal after a checkpoint; the next run goes on. Exit code 75. `lost`: what must be made again all the same.

    No Exception: it may come at any moment, and what catches every fault of a library must not take it for one.
    """

    exit_code = 75

    def __init__(self, text: str = "", *, lost: str = "") -> None:
        super().__init__(text)
        self.lost = lost


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return `did you mean 'theta'? known: fraction, theta`, or only the list when nothing is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    listed = f"known: {', '.join(sorted(known))}" if known else "there are none"
    return f"did you mean '{near[0]}'? {listed}" if near else listed


def to_install(package: str) -> str:
    """Return the command that installs `package` into the environment that runs ablab.

    No package index has ablab, so its extras (`ablab[hf]`) are nothing that pip could find: advice names packages.
    """
    python = Path(sys.executable)
    near = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    return f"{shlex.quote(str(near))} -P -m pip install {package}"
