"""When the contrasts of the decisions on record first had results of their own pairs: the order that tells who asked first.

The order of declaring says nothing: whoever declares three sets of seeds on an empty store and then runs them one by one has
looked twice before the third. A line is appended to the record when a contrast is first seen with results; every start of a
run and every judging looks at all decisions, so that no other study can get results in between unseen.

Of contrasts that are seen together (results of a store without such lines, or of two runs at one time) the files' times tell
the order. Decisions on the very same pairs share their results: the one that was last begun made them, else the one that looks.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ablab.core.forms import fits
from ablab.records.decision import Asked, Contrast, First
from ablab.runs.plan import Plan
from ablab.runs.store import append_line, read_lines

Row = Asked


def event(row: Row, name: str, kind: str, after: int, because: str, of: str) -> First:
    """Make the line: what remains of the arm `name` of a decision; of: the key of the decision whose family it is in."""
    return {
        "when": _now(),
        "first": name,
        "decision_key": row["decision_key"],
        "study": row["study"],
        "kind": kind,
        "after": after,
        "because": because,
        "of": of,
    }


def begin(plan: Plan, mine: str) -> None:
    """Put on record that the decision with the key `mine` is about to get results."""
    append_line(plan.store.root / "decisions.jsonl", {"when": _now(), "begun": mine})


def read(paths: Iterable[Path]) -> dict[str, dict[str, First]]:
    """Read decision key -> arm -> its line; the oldest where there are several."""
    by_decision: dict[str, dict[str, First]] = {}
    lines = [row for path in paths for row in read_lines(path) if fits(row, First)]
    for row in sorted(lines, key=lambda row: str(row["when"])):
        by_decision.setdefault(row["decision_key"], {}).setdefault(row["first"], row)
    return by_decision


def write(path: Path, rows: Iterable[Row]) -> None:
    """Append the lines of these decisions that the file does not hold."""
    there = read([path])
    for row in rows:
        for name, line in row["firsts"].items():
            if name not in there.get(row["decision_key"], {}):
                append_line(path, line)


def fresh(plan: Plan, decisions: Sequence[Row], at: int) -> list[tuple[int, str]]:
    """List (place, arm) of all that have results and no line, in the order in which they came; at: the decision that looks.

    Those that were declared after results come last: their own row says so, and they were nobody's first look.
    """
    begun = {
        row["begun"]: i
        for i, row in enumerate(read_lines(plan.store.root / "decisions.jsonl"))
        if isinstance(row.get("begun"), str)
    }
    new = []
    for j, row in enumerate(decisions):
        last = begun.get(row["decision_key"], -1)
        for entry in row.get("contrasts", ()):
            if entry["arm"] not in row["firsts"]:
                times = [t for keys, weights in _pairs(entry) if (t := _since(plan, keys, weights)) is not None]
                if times or entry["ended"]:
                    when = min(times, default=math.inf)
                    new.append((bool(entry["ended"]), when, -last, j != at, j, entry["arm"]))
    return [(j, name) for *_, j, name in sorted(new)]


def count(plan: Plan, entry: Contrast, asked: Callable[[Sequence[str], Sequence[str]], bool] | None = None) -> int:
    """Count the pairs of a contrast with results, of those that `asked(scores' keys, trainings' keys)` names."""
    pairs = [(keys, weights) for keys, weights in _pairs(entry) if asked is None or asked(keys, weights)]
    return sum(_since(plan, keys, weights) is not None for keys, weights in pairs)


def _pairs(entry: Contrast) -> list[tuple[Sequence[str], Sequence[str]]]:
    """Return (keys of the two scores, keys of the two trainings): rows written before these lines have no trainings."""
    trained = entry.get("trained") or [[]] * len(entry["pairs"])
    return [(pair[1:], weights) for pair, weights in zip(entry["pairs"], trained, strict=True)]


def _since(plan: Plan, keys: Sequence[str], weights: Sequence[str]) -> float | None:
    """Return since when anything is known of a pair: both scores, or both trainings, whose validations were seen; else None."""
    sets = [[f"{plan.store.root}/score/{key}/result.json" for key in keys]]
    if len(set(weights)) == 2:
        sets.append([f"{plan.store.root}/train/{key}/done.json" for key in weights])
    each = [[plan.store.since(file) for file in files] for files in sets]
    return min((max(t for t in times if t is not None) for times in each if None not in times), default=None)


def _now() -> str:
    return datetime.datetime.now().isoformat(timespec="microseconds")
