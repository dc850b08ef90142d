"""From files to answers: which runs are on which side, and a comparison for each arm."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ablab.core.fault import Fault, Refused
from ablab.core.opened import read_whole
from ablab.judging.compare.claims import hold, stages_stated
from ablab.judging.compare.stated import LONGEST, numbers
from ablab.judging.compare.words import compare
from ablab.judging.logs import lists, submission, table
from ablab.judging.logs.arms import LoggedArm, SortedRuns, files, sort, unseeded
from ablab.judging.logs.text import seed_in
from ablab.records.comparison import Answers, Comparison, Flag
from ablab.records.log import Level, LoggedRun

MOST = 4 * LONGEST  # bytes of a file that is a claim
TOLD = (table.NAME, submission.NAME)  # readers of files that tell of runs, whose logs may lie beside them
PAGES = ("README.md", "submission.json")  # of a folder that is a claim
SHOWN = 6  # folders in a sentence
_BASELINE = re.compile(r"(?<![a-z])(?:base(?:line)?|control|reference|ref|default|vanilla)(?![a-z])", re.IGNORECASE)


class NothingRead(Refused):
    """No run was read of a side: exit code 2."""

    exit_code = 2


def ask(
    what: Sequence[str],
    against: Sequence[str],
    *,
    stage: str | None = None,
    metric: str | None = None,
    presets: Sequence[str] = (),
    matters: float | None = None,
    claim: Sequence[str] = (),
) -> Answers:
    """Read the runs of `what` and hold them against those of `against`: files, folders, patterns, or names of arms in `what`.

    A file that names its arms gives a comparison for each, which share the error; any other runs of a side are one group,
    and what differs between them is flagged. Without `against` the runs are sorted into arms, and those are compared with
    the one that is called a baseline, two against the first; of more, none of them called so, each is looked at alone.
    claim: texts, or places of files with it, or a folder whose README.md and submission.json it is; it chooses the stage
    where none is asked for, and is no evidence: its files do not count as runs, and where nothing else was read the answer
    is `no logs`. Raises NothingRead and Refused with the place of each fault.
    """
    pages = [page for one in claim for page in _claim(one)]
    texts = [text for _, text in pages]
    ours = _first_hand(_unclaimed(sort(*what), [path for path, _ in pages if path], what), what)
    split, faults = _split(ours), [*ours.faults, *_silent(claim, texts)]
    named, elsewhere = _named(against, split)
    theirs = _first_hand(sort(*elsewhere), elsewhere) if elsewhere else SortedRuns()
    faults += theirs.faults
    arms = split if named or not against else _arms(ours)
    known, notes = ([*named], []) if against else _reference(arms, what, faults)
    reference = [*(run for one in known for run in arms.pop(one)), *_runs(theirs)]
    if texts and not arms:
        arms = {"x": []}
    elif not arms or (against and not reference and not texts):
        side = "--against" if arms else "the first arguments"
        nothing = Fault(
            side, "no run was read", "give files that hold the scores of runs, or a folder or pattern of them"
        )
        raise NothingRead([*faults, nothing])
    comparisons: list[Comparison] = []
    for name, runs in arms.items():
        stages, said = ([None, None], []) if stage else stages_stated(runs, reference, metric, *texts)
        answer = compare(runs, reference if known or against else None, stage=stage, metric=metric, presets=presets,
                         matters=matters, m=len(arms), stages=stages)  # fmt: skip
        answer["x"]["name"] = name
        if answer["y"] is not None:
            answer["y"]["name"] = ", ".join([*known, *elsewhere])
        answer["flags"] += [*notes, *said, *_spread_out(runs)]
        comparisons.append(hold(answer, runs, reference, *texts) if texts else answer)
    return {"comparisons": comparisons, "faults": [str(fault) for fault in faults]}


def _named(against: Sequence[str], split: dict[str, list[LoggedRun]]) -> tuple[list[str], list[str]]:
    """Return (arms, words that are none): an arm by its name, or by a path that holds all its files and none of another arm."""
    sources = {name: {run.source.resolve() for run in runs} for name, runs in split.items()}
    arms: dict[str, None] = {}
    rest = []
    for one in against:
        inside = {path.resolve() for path in files([one], [])}
        whole = [name for name, paths in sources.items() if paths <= inside]
        shared = [name for name, paths in sources.items() if paths & inside]
        if one in split and not Path(one).exists():
            arms[one] = None
        elif whole and whole == shared and len(whole) < len(split):
            arms |= dict.fromkeys(whole)
        else:
            rest.append(one)
    return [*arms], rest


def _reference(
    arms: dict[str, list[LoggedRun]], what: Sequence[str], faults: list[Fault]
) -> tuple[list[str], list[Flag]]:
    """Choose the arm that the others are compared with where nobody named one, and what is to be said of that choice.

    The only one that is called a baseline; else the first of two. Of more it is asked for.
    """
    called = [
        name for name, runs in arms.items()
        if _BASELINE.search(name) or any(_BASELINE.fullmatch(said) for run in runs for said in run.facts.values())
    ]  # fmt: skip
    if len(arms) > 1 and len(called) == 1:
        return called, []
    if len(arms) == 2:
        said = f"reference is {next(iter(arms))}, the first of two arms that are there: --against names the other"
        return [next(iter(arms))], [{"kind": "reference_taken", "side": "", "grade": "notes", "said": said}]
    if len(arms) > 2:
        several = f"{len(called)} are" if called else "none is"
        fault = f"{len(arms)} arms are there, and {several} called a baseline: each is looked at alone"
        faults.append(
            Fault(", ".join(what), fault, f"name the reference, as --against {shlex.quote(next(iter(arms)))}")
        )
    return [], []


def _spread_out(runs: Sequence[LoggedRun]) -> list[Flag]:
    """Note where runs of several folders are one arm, by their settings and their code."""
    folders = sorted({run.source.parent.name for run in runs if run.settings is not None or run.code is not None})
    listed = {frozenset(run.settings.items()) if run.settings is not None else run.code for run in runs}
    if len(folders) < 2 or len(listed) > 1:
        return []
    said = f"runs of {len(folders)} folders have equal settings and code, and are one arm: {', '.join(folders[:SHOWN])}"
    return [{"kind": "one_arm_of_folders", "side": "x", "grade": "notes", "said": said}]


def _split(listed: SortedRuns) -> dict[str, list[LoggedRun]]:
    """Split runs into arms by their names: equal settings and code, or the name that the file gives.

    Files of one folder that are called seeds of one thing are one arm whatever their settings (then a fault says so), but
    where each part has two runs or more: that is a comparison under one name.
    """
    parts: dict[object, list[LoggedArm]] = {}
    for arm in listed.arms:
        parts.setdefault(_called(arm), []).append(arm)
    groups: list[list[LoggedRun]] = []
    for members in parts.values():
        runs = [arm.runs for arm in members]
        groups += runs if len(runs) == 1 or min(map(len, runs)) > 1 else [[run for one in runs for run in one]]
    arms: dict[str, list[LoggedRun]] = {}
    for group, name in zip(groups, _names(groups)):
        count = sum(one == name or one.startswith(f"{name} (") for one in arms)
        arms[name if not count else f"{name} ({count + 1})"] = group
    homes = {run.source: name for name, runs in arms.items() for run in runs}
    for run in _attempts(listed):
        arms.setdefault(homes.get(run.source, run.arm or run.source.stem), []).append(run)
    return arms


def _names(groups: list[list[LoggedRun]]) -> Iterator[str]:
    """Choose the file's name; its folder's where no other arm is in it; else its own, behind a folder's of several."""
    homes = Counter(folder for group in groups for folder in {run.source.parent for run in group})
    for group in groups:
        first = group[0].source
        own = unseeded(group[0].arm) or group[0].arm
        stem = unseeded(first.stem) or first.stem
        folder = first.parent.name
        alone = homes[first.parent] == 1 and folder
        yield own or (folder if alone else f"{folder}/{stem}" if len(homes) > 1 and folder else stem)


def _called(arm: LoggedArm) -> object:
    """Return folder and name without the seed, where all its files are named for a seed; itself where they are not."""
    names = {(run.source.parent, unseeded(run.source.stem)) for run in arm.runs}
    seeds = all(run.arm is None and seed_in(run.source.name) is not None for run in arm.runs)
    return names.pop() if seeds and len(names) == 1 else id(arm)


def _first_hand(runs_sorted: SortedRuns, what: Sequence[str]) -> SortedRuns:
    """Keep one telling of each run: a page beside logs tells of the same runs again. What is named itself stays.

    Logs count, from two on, and so does a single one beside a table or a submission; a list of losses counts beside a
    single log, which is one of its runs as a rule. What does not count is a fault by the name of its file.
    """
    asked = {Path(one).resolve() for one in what}
    sources: dict[str, set[Path]] = {"log": set(), "told": set(), lists.NAME: set()}
    for arm in runs_sorted.arms:
        for run in arm.runs:
            kind = "told" if run.reader in TOLD else run.reader if run.reader in sources else "log"
            sources[kind].add(run.source)
    logs, told, listed = sources["log"], sources["told"], sources[lists.NAME]
    if not logs or not (told or listed):
        return runs_sorted
    left = {one for one in (told | logs if listed and len(logs) == 1 else told | listed) if one.resolve() not in asked}
    kept = [LoggedArm(arm.name, [run for run in arm.runs if run.source not in left]) for arm in runs_sorted.arms]
    runs = [run for arm in runs_sorted.arms for run in arm.runs]
    cure = "name the file itself to have it judged"
    faults = [Fault(str(one), _retold(one, runs, left), cure) for one in sorted(left)]
    return SortedRuns([arm for arm in kept if arm.runs], runs_sorted.aside, [*runs_sorted.faults, *faults])


def _retold(path: Path, runs: Sequence[LoggedRun], left: set[Path]) -> str:
    """Say how many of a page's runs have a score of the files that count, as far as the page prints it."""
    counted = [level for run in runs if run.source not in left for level in run.stages.values()]
    known = {(digits, round(value, digits)) for digits in range(2, 10) for level in counted for value in _values(level)}
    own = [run for run in runs if run.source == path]
    again = sum(
        any(
            (level.digits, round(value, level.digits)) in known
            for level in run.stages.values()
            for value in _values(level)
        )
        for run in own
    )
    more = "" if again == len(own) else f", {len(own) - again} of them with a score that is in no other file"
    return f"tells of {len(own)} run{'s' if len(own) > 1 else ''} beside the logs{more}, and does not count"


def _values(level: Level) -> list[float]:
    return [value for value in (level.nats, level.bpb, level.value) if value is not None]


def _runs(listed: SortedRuns) -> list[LoggedRun]:
    return [*(run for arm in listed.arms for run in arm.runs), *_attempts(listed)]


def _attempts(listed: SortedRuns) -> list[LoggedRun]:
    """List runs that a later one of their own file replaces; a claim may be one. Earlier checkpoints are none."""
    return [run for run in listed.aside if run.of > 1]


def _arms(listed: SortedRuns) -> dict[str, list[LoggedRun]]:
    """Group runs by the names that the files give; runs without one are a group under the name of their first arm."""
    arms: dict[str, list[LoggedRun]] = {}
    nameless = [run for arm in listed.arms if arm.runs[0].arm is None for run in arm.runs]
    first = next(_names([nameless])) if nameless else "runs"
    if any(arm.name == first and arm.runs[0].arm is not None for arm in listed.arms):
        first += " (logs)"  # a table beside them has an arm of this name
    for arm in listed.arms:
        arms.setdefault(first if arm.runs[0].arm is None else arm.name, []).extend(arm.runs)
    for run in _attempts(listed):
        arms.setdefault(first if run.arm is None else run.arm, []).append(run)
    return arms


def _unclaimed(listed: SortedRuns, claimed: Sequence[Path], what: Sequence[str]) -> SortedRuns:
    """Return the runs without those that the claim itself tells of: in its files, and in unnamed pages beside them."""
    files = {path.resolve() for path in claimed}
    folders, asked = {path.parent for path in files}, {Path(one).resolve() for one in what}

    def told(run: LoggedRun) -> bool:
        source = run.source.resolve()
        page = run.reader in (*TOLD, lists.NAME) and source.suffix.lower() in (".md", ".markdown", ".json")
        return source in files or (page and source.parent in folders and source not in asked)

    left = sorted({str(run.source) for arm in listed.arms for run in arm.runs if told(run)})
    arms = [LoggedArm(arm.name, [run for run in arm.runs if not told(run)]) for arm in listed.arms]
    faults = [Fault(one, "is the claim's own page, and no evidence of it", "give the logs of its runs") for one in left]
    return SortedRuns([arm for arm in arms if arm.runs], listed.aside, [*listed.faults, *faults])


def _exists(claim: str) -> bool:
    """Tell whether the words name a file; words that are longer than a name may be name none."""
    try:
        return Path(claim).exists()
    except (OSError, ValueError):
        return False


def _silent(claim: Sequence[str], texts: Sequence[str]) -> list[Fault]:
    """Say of a claim without a number that it was held to nothing."""
    if not texts or any(numbers(text) for text in texts):
        return []
    cure = "give it with the scores or the difference that it claims, as val_bpb 1.0765"
    return [Fault(f"--claim {claim[0][:60]}", "states no number that could be held to these runs", cure)]


def _claim(claim: str) -> list[tuple[Path | None, str]]:
    """Return (place, text) of each of its pages; None as the place of words. Refused where one cannot be read."""
    if "\n" in claim or len(claim) > 1000 or not _exists(claim):
        if not re.search(r"\s", claim) and (claim.endswith(".json") or not numbers(claim)):  # one word, and no number
            cure = "give a file or a folder that exists, or the claim's text with its numbers"
            raise Refused(Fault(f"--claim {claim[:80]}", "names no file", cure))
        return [(None, claim)]
    place = Path(claim)
    paths = [place / name for name in PAGES if (place / name).is_file()] if place.is_dir() else [place]
    if not paths:
        raise Refused(
            Fault(f"--claim {claim}", f"holds none of {', '.join(PAGES)}", "give the file that the claim stands in")
        )
    try:
        return [(path, read_whole(path, MOST).decode("utf-8", "replace")) for path in paths]
    except (OSError, ValueError) as error:
        raise Refused(Fault(f"--claim {claim}", f"cannot be read ({error})", "give a file of text")) from error
