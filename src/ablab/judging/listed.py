"""Every study of a store, as its last verdict has it: nothing is planned, judged or written."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NotRequired, TypedDict

from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import read_json
from ablab.judging import shelf
from ablab.runs.store import Store
from ablab.runtime.lock import holder


class ListedArm(TypedDict):
    """What is read of an arm in a verdict of any version."""

    name: str
    word: NotRequired[str | None]


class ListedVerdict(TypedDict):
    """What is read of a verdict of any version for the list."""

    study: str
    arms: list[ListedArm]
    scale: NotRequired[str | None]
    winner: NotRequired[str | None]
    runs: NotRequired[list[dict[str, object]]]
    environment: NotRequired[dict[str, object] | None]


class StudyRow(TypedDict):
    """A study at a scale. words: of each arm; done: of the runs that the verdict lists; None where nothing was judged."""

    study: str
    scale: str | None
    words: dict[str, str]
    winner: str | None
    judged: str | None
    done: int | None
    listed: int | None
    state: str
    folder: str


def rows(out: Path) -> list[StudyRow]:
    """List every study of the store at `out`, by name and scale. CheckFailed where there is no store."""
    store = Store(out).root
    root = store / "studies"
    if not root.is_dir() and not any((store / room).is_dir() for room in ("data", "train", "score")):
        cure = "name the folder that `ablab run` had as --out"
        raise CheckFailed(Fault(str(out), "is no store of runs", cure))
    return [
        _row(folder)
        for folder in (sorted(root.iterdir()) if root.is_dir() else ())
        if folder.is_dir() and not folder.name.startswith(".")
    ]


def _row(folder: Path) -> StudyRow:
    busy = holder(folder)
    name, _, scale = folder.name.partition(".")  # a study's name has no dot
    row: StudyRow = {"study": name, "scale": scale or None, "words": {}, "winner": None, "judged": None, "done": None,
                     "listed": None, "state": "running" if busy else "not judged", "folder": str(folder)}  # fmt: skip
    if not (folder / "verdict.json").exists():
        return row
    try:
        kept = read_json(folder / "verdict.json", form=ListedVerdict)
    except CheckFailed:
        return {**row, "state": row["state"] if busy else "unreadable"}
    runs = kept.get("runs", [])
    ends = Counter(str(run.get("status")) for run in runs)
    words = {arm["name"]: arm.get("word") for arm in kept["arms"] if arm["name"] != "baseline"}
    row |= {"study": kept["study"], "scale": kept.get("scale"), "winner": kept.get("winner"), "listed": len(runs)}
    row["done"] = ends["done"] + ends["diverged"]
    row["judged"] = shelf.when({"arms": [], "decided_by": None, "environment": kept.get("environment")})
    row["words"] = {name: word for name, word in words.items() if word}
    whole = row["done"] == len(runs) and len(row["words"]) == len(words)
    return row if busy else {**row, "state": "judged" if whole else "unfinished"}
