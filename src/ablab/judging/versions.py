"""What stands between a page and another version of its study: refused before it is lost, and said in words."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from ablab.core import places
from ablab.core.fault import CheckFailed, Fault
from ablab.core.forms import fits
from ablab.core.opened import read_whole
from ablab.judging import collect
from ablab.judging.shelf import lying, place_of, version, when
from ablab.records.answer import Kept
from ablab.records.run import Ran
from ablab.runs.plan import Plan
from ablab.runs.program import Program
from ablab.study.read import MOST_BYTES


class Counts(TypedDict):
    """How much a corpus holds."""

    train_tokens: int
    valid_tokens: int


def guard(plan: Plan) -> None:
    """Refuse to put the page of an unfinished version where the finished page of another one lies."""
    other = lying(plan.directory)
    if other is None or other.get("version") == version(plan) or other["decided_by"] == "not finished":
        return
    if not (missing := collect.wanted(plan, collect.bank(plan))):
        return
    fault = (
        f"is the finished page of another version, judged {when(other)}; since then {since(plan, other)}. Of this version "
        f"{len(missing)} runs to the next look are missing"
    )
    cure = f"put back what changed, or do `ablab run` first: the page then moves to {place_of(plan, other)}"
    raise CheckFailed(Fault(str(plan.directory / "report.html"), fault, cure))


def one_of_its_name(folder: Path) -> None:
    """Refuse a study's folder beside one whose name differs by case alone: copied to another disk they are one."""
    for other in folder.parent.glob("*"):
        if other.name != folder.name and other.name.lower() == folder.name.lower():
            fault = "differs from the study's name by case alone, which many disks do not tell apart"
            raise CheckFailed(Fault(str(other), fault, "rename the study, or choose another --out"))


def free(plan: Plan, to: Path) -> Path:
    """Return the folder `to` that a person named, its links followed. CheckFailed where another study's page is there."""
    to = places.real(to)
    other = lying(to)
    if other is not None and (other.get("study"), other.get("version")) != (plan.study.name, version(plan)):
        fault = f"holds the page of another study or version ({other.get('study')}, judged {when(other)})"
        raise CheckFailed(Fault(str(to), fault, "name another folder"))
    return to


def since(plan: Plan, other: Kept) -> str:
    """Say what makes another version, in words: the study file, the data, the program, or the keys alone."""
    said = []
    try:
        before = read_whole(plan.directory / "study.toml", MOST_BYTES).decode("utf-8").splitlines()
    except (OSError, ValueError):
        before = plan.study.source.splitlines()
    after = plan.study.source.splitlines()
    if before != after:
        said.append(_lines(before, after))
    known = {str(one["key"]): one for one in other.get("data") or () if isinstance(one, dict) and "key" in one}
    for key, corpus in plan.corpora.items():
        if known and key not in known:
            gone = [(old, manifest) for old, manifest in known.items() if old not in plan.corpora]
            had = _corpus(*gone[0]) if gone else "none of it"
            said.append(f"the data changed: {_corpus(key, corpus.manifest)} (it had {had})")
    said += _programs(plan, other)
    return (
        " and ".join(said)
        or "its runs have other keys: a component of ablab was revised, or they are executed otherwise"
    )


def _programs(plan: Plan, other: Kept) -> list[str]:
    """Say of studies over a command which arm's program changed first, in what, and how many more did."""
    had = dict[str, Ran]()
    rows = other.get("runs")
    for row in rows if fits(rows, list[dict[str, object]]) else []:
        done = plan.store.trained(str(row["key"])) if row.get("key") else None
        if done is not None and "program" in done:
            had.setdefault(str(row.get("arm")), done["program"])
    told = []
    for name in plan.study.with_baseline:
        now = plan.runs[name, plan.seeds[0]].program
        if name in had and now is not None and (parts := _changed(had[name], now)):
            told.append(f"the program of {name} changed: {', '.join(parts)}")
    more = f" (and that of {len(told) - 1} more arms)" if len(told) > 1 else ""
    return [told[0] + more] if told else []


def _changed(had: Ran, now: Program) -> list[str]:
    """Name what of a program's state differs, the largest first: commit, what lies beside it, patch, files that are read."""
    parts = []
    if had["tree"] != now.tree and had["commit"] != now.commit:
        parts.append(f"commit {had['commit'][:12]} became {now.commit[:12]}")
    elif had["tree"] != now.tree:
        parts.append(f"what its checkout holds beside commit {now.commit[:12]} is another")
    if had["patch"] != now.patch:
        parts.append("its patch is another")
    before, after = ({one[0]: one[1] for one in some} for some in (had["reads"], now.reads))
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if names:
        rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
        parts.append(f"files that it reads are others ({', '.join(names[:3])}{rest})")
    return parts


def _lines(before: list[str], after: list[str]) -> str:
    """Say which line of the study file changed first, blanks aside where any other does, and how many more did."""
    pairs = list(itertools.zip_longest(before, after, fillvalue=""))
    changed = [i for i, (a, b) in enumerate(pairs) if a != b]
    told = [i for i in changed if "".join(pairs[i][0].split()) != "".join(pairs[i][1].split())] or changed
    old, new = (text.strip() or "nothing" for text in pairs[told[0]])
    more = f", and {len(told) - 1} more lines differ" if len(told) > 1 else ""
    return f"line {told[0] + 1} of the study file became `{new}` (it was `{old}`){more}"


def _corpus(key: str, manifest: Mapping[str, object]) -> str:
    """Say how much a corpus holds, and its name."""
    counts = manifest.get("counts")
    train, valid = (counts["train_tokens"], counts["valid_tokens"]) if fits(counts, Counts) else (0, 0)
    return f"{train:,} training and {valid:,} held-out tokens, corpus {key[:8]}"
