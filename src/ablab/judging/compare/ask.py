"""From files to answers: which runs stand on which side, and a comparison for each arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ablab.core.fault import Fault, Refused
from ablab.core.opened import read_whole
from ablab.judging.compare.claims import LONGEST, hold
from ablab.judging.compare.words import compare
from ablab.judging.logs import lists, submission, table
from ablab.judging.logs.arms import LoggedArm, Sorted, sort
from ablab.records.comparison import Answers, Comparison
from ablab.records.log import LoggedRun

MOST = 4 * LONGEST  # bytes of a file that is a claim
TOLD = (table.NAME, submission.NAME)  # readers of files that tell of runs, whose logs may lie beside them


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
    claim: str | None = None,
) -> Answers:
    """Read the runs of `what` and hold them against those of `against`: files, folders, patterns, or names of arms in `what`.

    A file that names its arms gives a comparison for each, which share the error; any other runs of a side are one group,
    and what differs between them is flagged. claim: text, or the place of a file with it. Raises NothingRead and
    Refused with the place of each fault.
    """
    ours = _first_hand(sort(*what), what)
    arms, faults = _arms(ours), [*ours.faults]
    named = [one for one in against if one in arms and not Path(one).exists()]
    files = [one for one in against if one not in named]
    theirs = _first_hand(sort(*files), files) if files else Sorted()
    faults += theirs.faults
    reference = [*(run for one in named for run in arms.pop(one)), *_runs(theirs)]
    if not arms or (against and not reference):
        side = "--against" if arms else "the first arguments"
        nothing = Fault(
            side, "no run was read", "give files that hold the scores of runs, or a folder or pattern of them"
        )
        raise NothingRead([*faults, nothing])
    text = None if claim is None else _claim(claim)
    comparisons: list[Comparison] = []
    for name, runs in arms.items():
        answer = compare(runs, reference if against else None, stage=stage, metric=metric, presets=presets,
                         matters=matters, m=len(arms))  # fmt: skip
        answer["x"]["name"] = name
        if answer["y"] is not None:
            answer["y"]["name"] = ", ".join(against)
        comparisons.append(answer if text is None else hold(answer, runs, reference, text))
    return {"comparisons": comparisons, "faults": [str(fault) for fault in faults]}


def _first_hand(found: Sorted, what: Sequence[str]) -> Sorted:
    """One telling of each run: a page beside logs tells of the same runs again. What is named itself stays.

    Logs count, from two on, and so does a single one beside a table or a submission; a list of losses counts beside a
    single log, which is one of its runs as a rule. What does not count is a fault by the name of its file.
    """
    asked = {Path(one).resolve() for one in what}
    sources: dict[str, set[Path]] = {"log": set(), "told": set(), lists.NAME: set()}
    for arm in found.arms:
        for run in arm.runs:
            kind = "told" if run.reader in TOLD else run.reader if run.reader in sources else "log"
            sources[kind].add(run.source)
    logs, told, listed = sources["log"], sources["told"], sources[lists.NAME]
    if not logs or not (told or listed):
        return found
    left = {one for one in (told | logs if listed and len(logs) == 1 else told | listed) if one.resolve() not in asked}
    kept = [LoggedArm(arm.name, [run for run in arm.runs if run.source not in left]) for arm in found.arms]
    fault, cure = (
        "tells of runs that stand in another file, and does not count",
        "name the file itself to have it judged",
    )
    faults = [Fault(str(one), fault, cure) for one in sorted(left)]
    return Sorted([arm for arm in kept if arm.runs], found.aside, [*found.faults, *faults])


def _runs(found: Sorted) -> list[LoggedRun]:
    return [*(run for arm in found.arms for run in arm.runs), *_attempts(found)]


def _attempts(found: Sorted) -> list[LoggedRun]:
    """Runs that a later one of their own file replaces: they are said, and a claim may be one. Earlier checkpoints are none."""
    return [run for run in found.aside if run.of > 1]


def _arms(found: Sorted) -> dict[str, list[LoggedRun]]:
    """By the names that the files give; runs without one are a group under the name of their first arm."""
    arms: dict[str, list[LoggedRun]] = {}
    first = next((arm.name for arm in found.arms if arm.runs and arm.runs[0].arm is None), "runs")
    for arm in found.arms:
        arms.setdefault(first if arm.runs[0].arm is None else arm.name, []).extend(arm.runs)
    for run in _attempts(found):
        arms.setdefault(first if run.arm is None else run.arm, []).append(run)
    return arms


def _claim(claim: str) -> str:
    """The text; of a name of a file what it holds. Refused where it cannot be read."""
    if "\n" in claim or len(claim) > 1000 or not Path(claim).is_file():
        if claim.endswith(".json") and " " not in claim:
            raise Refused(
                Fault(f"--claim {claim}", "names no file", "give a submission.json that exists, or the claim's text")
            )
        return claim
    try:
        return read_whole(Path(claim), MOST).decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        raise Refused(Fault(f"--claim {claim}", f"cannot be read ({error})", "give a file of text")) from error
