"""A folder of runs sorted into arms: an arm is the runs of equal settings, without seed, paths and rank, and equal code."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ablab.core.fault import Fault
from ablab.core.patterns import matched
from ablab.judging.logs import olmo
from ablab.judging.logs.formats import FORMATS, read
from ablab.records.log import LoggedRun

_SEED = re.compile(r"[-_. ]?(?<![a-z])(?:seed|s)[-_ ]?\d{1,18}(?!\d)", re.IGNORECASE)
_NAMES = re.compile("|".join(f"(?:{one.names})" for one in FORMATS), re.IGNORECASE | re.DOTALL)
Key = tuple[object, ...]


@dataclass
class LoggedArm:
    """Runs that differ by seed alone, as far as their files tell. name: of its folder or files; no two are equal."""

    name: str
    runs: list[LoggedRun]


@dataclass
class SortedRuns:
    """arms: in the order of their first files. aside: runs of a file that holds a later, complete one."""

    arms: list[LoggedArm] = field(default_factory=list)
    aside: list[LoggedRun] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def sort(*what: str | Path) -> SortedRuns:
    """Sort the runs of files, folders and globs (`*`, `**`) into arms. Files named twice count once.

    A file without any score is a fault where it is named, and passed over where it only lies in a folder.
    """
    runs_sorted, named = SortedRuns(), {Path(one) for one in what}
    counted: list[LoggedRun] = []
    for path in files(what, runs_sorted.faults):
        reading = read(path)
        if not reading.strange or path in named:
            runs_sorted.faults += reading.faults
        one, aside = chosen(reading.runs)
        counted += one
        runs_sorted.aside += aside
    counted, earlier = last_checkpoints(counted)
    runs_sorted.aside += earlier
    runs_sorted.arms = into_arms(counted)
    return runs_sorted


def last_checkpoints(runs: list[LoggedRun]) -> tuple[list[LoggedRun], list[LoggedRun]]:
    """Split runs whose format writes a file a checkpoint: of a folder the last one counts; the second list is the others."""
    last: dict[Path, LoggedRun] = {}
    for run in runs:
        held = last.get(run.source.parent)
        if run.reader == olmo.NAME and (held is None or (run.steps or 0) >= (held.steps or 0)):
            last[run.source.parent] = run
    earlier = [run for run in runs if run.reader == olmo.NAME and last[run.source.parent] is not run]
    gone = {id(run) for run in earlier}
    return [run for run in runs if id(run) not in gone], earlier


def files(what: Iterable[str | Path], faults: list[Fault]) -> list[Path]:
    """List files to read, each once. A folder gives files under a name that a format takes; a named file is taken."""
    unique: dict[Path, None] = {}
    for one in what:
        paths = matched(str(one))
        if not paths:
            faults.append(Fault(str(one), "names no file", "give a file, a folder or a pattern that names one"))
        for path in paths:
            inside = [at for at in matched(str(path / "**")) if _NAMES.fullmatch(at.name)] if path.is_dir() else [path]
            unique |= dict.fromkeys(at for at in inside if not at.is_dir())
    return list(unique)


def chosen(runs: list[LoggedRun]) -> tuple[list[LoggedRun], list[LoggedRun]]:
    """Choose the runs of one file that count, and the rest: of a log that holds several the last complete or diverged one."""
    if len(runs) < 2 or runs[0].of == 1:  # a table's rows are runs of their own
        return runs, []
    last = next((run for run in reversed(runs) if run.complete or run.lost), runs[-1])
    return [last], [run for run in runs if run is not last]


def into_arms(runs: Iterable[LoggedRun]) -> list[LoggedArm]:
    """Group runs by settings and code, in the order of the first of each."""
    arms: dict[Key, list[LoggedRun]] = {}
    for run in runs:
        arms.setdefault(_key(run), []).append(run)
    folders = Counter(folder for members in arms.values() for folder in {run.source.parent for run in members})
    names: dict[str, int] = {}
    sorted_arms = []
    for members in arms.values():
        name = _name(members[0], alone=folders[members[0].source.parent] == 1)
        names[name] = names.get(name, 0) + 1
        sorted_arms.append(LoggedArm(name if names[name] == 1 else f"{name} ({names[name]})", members))
    return sorted_arms


def _key(run: LoggedRun) -> Key:
    """Return what makes an arm: without settings in the log and a size of its program, the name of arm or folder."""
    listed = None if run.settings is None else frozenset(run.settings.items())
    known = listed is not None or run.code is not None or run.code_bytes is not None
    told = frozenset() if listed is not None or run.arm is not None else frozenset(run.facts.items())
    place = (
        None if known else run.source if run.arm is not None else tuple(map(unseeded, run.source.with_suffix("").parts))
    )
    return unseeded(run.arm), listed, run.code, run.code_bytes, told, place


def _name(run: LoggedRun, *, alone: bool) -> str:
    """Choose the name that the file gives; its folder's where no other arm is in it; else its own, less the seed."""
    if run.arm is not None:
        return unseeded(run.arm) or run.arm
    if run.source.parent.name and alone:
        return run.source.parent.name
    return _stem(run) or run.source.name


def _stem(run: LoggedRun) -> str:
    return unseeded(run.source.stem) or ""


def unseeded(name: str | None) -> str | None:
    """Strip a name of its seed; None of none."""
    return None if name is None else _SEED.sub("", name).strip("-_. ")
