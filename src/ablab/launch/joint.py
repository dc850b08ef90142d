"""Several commands at one study: who is at it, on whatever machine, and what each does before its first run."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ablab.core import places
from ablab.core.fault import CheckFailed, Fault, Halted, InUse
from ablab.core.files import read_json, write_json
from ablab.runtime.lock import Held, holder, in_turn, locked

if TYPE_CHECKING:
    from ablab.runs.plan import Plan

Say = Callable[[str], None]
AT = "at"  # below a study's folder: a folder for each command that is at it


@dataclass
class Attendance:
    """That this command is at a study; others: the words for those that were there before."""

    directory: Path
    place: Path
    began: os.stat_result  # of the study's folder
    held: Held
    others: tuple[str, ...]
    stack: contextlib.ExitStack

    def check(self) -> None:
        """Raise Halted where the study's folder is no longer there, or another one is.

        A command that was stopped for longer than its lease may have been taken for dead: it takes its place again, and raises
        InUse where another version of the study is being made meanwhile.
        """
        try:
            self.held.check()
        except Halted as error:
            with contextlib.suppress(OSError):
                if os.path.samestat(self.directory.lstat(), self.began):
                    self.held = self.stack.enter_context(locked(self.place))
                    _beside(self.directory, self.place)
                    return
            raise Halted(Fault(str(self.directory), one.fault, one.cure) for one in error.faults) from error


@contextlib.contextmanager
def attending(plan: Plan) -> Iterator[Attendance]:
    """Hold a place at a study until the block ends. InUse where a command is at another version: both have one page."""
    from ablab.judging import shelf

    place = plan.directory / AT / f"{shelf.version(plan)}.{uuid.uuid4().hex[:12]}"
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(locked(place))
        try:
            others = _beside(plan.directory, place)
            yield Attendance(plan.directory, place, plan.directory.lstat(), held, others, stack)
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _beside(directory: Path, place: Path) -> tuple[str, ...]:
    """Say who else is at a study. InUse where one of them is at another version than that of `place`."""
    there = [(folder, who) for folder, who in present(directory) if folder != place]
    for folder, who in there:
        if folder.name.partition(".")[0] != place.name.partition(".")[0]:
            fault = f"another version of this study is in use by {who}"
            raise InUse(Fault(str(directory), fault, "wait for it, stop it, or choose another --out"), who)
    return tuple(who for _, who in there)


def present(directory: Path) -> list[tuple[Path, str]]:
    """List the commands that are at a study: the folder of each, and its words. What dead ones left is removed."""
    found = []
    places.check(directory / AT)
    for folder in sorted((directory / AT).glob("*.*")):
        if who := holder(folder):
            found.append((folder, who))
        elif not folder.is_symlink() and any(folder.glob("claim.*")):  # without one it is being made
            shutil.rmtree(folder, ignore_errors=True)
    return found


@contextlib.contextmanager
def begun(plan: Plan, say: Say, *, changed: bool, try_again: bool, joins: bool) -> Iterator[Attendance]:
    """Join those at a study, and do, one command at a time, what comes before the first run: rule, notes, rehearsal.

    changed: take what other code has made. try_again: all runs that were given up; else those that memory did not fail,
    and where another command is at the study, or this one `joins`, none: they are that one's.
    """
    from ablab.judging import versions

    versions.one_of_its_name(plan.directory)
    with attending(plan) as at:
        with in_turn(plan.directory, say):
            again = None if (joins or at.others) and not try_again else try_again
            _begin(plan, say, changed=changed, try_again=again)
        yield at


def _begin(plan: Plan, say: Say, *, changed: bool, try_again: bool | None) -> None:
    from ablab.check import miniature, program
    from ablab.judging import history, judge, same_code
    from ablab.launch import board

    _say_what_lies_there(plan, say)
    if not changed:
        same_code.guard(plan)
    history.begin(plan)  # the decision is on record before any result
    for note in judge.notes(plan):
        say(note if note.startswith("warning") else f"note: {note}")
    beyond, mark = list[str](), {"study": plan.study.key, "source": same_code.key(plan)}
    if plan.study.runner is not None:
        program.ready(plan)
    elif not _rehearsed(plan, mark):
        miniature.check(plan, say, beyond)
        if not beyond:
            write_json(plan.directory / "checked.json", mark)
    board.begin(plan, say, try_again=try_again, beyond=beyond)


def _rehearsed(plan: Plan, mark: dict[str, str]) -> bool:
    with contextlib.suppress(CheckFailed):
        return bool(read_json(plan.directory / "checked.json") == mark)
    return False  # a note of this program's to itself: without it the check is made again


def _say_what_lies_there(plan: Plan, say: Say) -> None:
    """Say beforehand that another version's page under this name goes to `earlier/` when this one has something to show."""
    from ablab.judging import shelf, versions

    other = shelf.lying(plan.directory)
    if other is not None and other.get("version") != shelf.version(plan):
        at = plan.directory / "earlier"
        say(f"note: {plan.directory} holds the page of another version of this study: {versions.since(plan, other)}")
        say(f"note: with the first result of this one, that page moves to {at}")
