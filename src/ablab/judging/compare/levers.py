"""What two sides' settings differ in. Two groups whose settings do not differ are an A/A, whatever their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from ablab.records.comparison import Levers
from ablab.records.log import LoggedRun

SHOWN = 12  # names in a sentence
# Where a run lay, was called and ran is no lever. `rank` alone: `lora_rank` is one.
_NO_LEVER = re.compile(
    r"(?:path|dir|file|files|seed|run_id|run_name)$|^(?:local_)?rank$|^is_main_process$", re.IGNORECASE
)


def said(run: LoggedRun) -> dict[str, str] | None:
    """Return the settings of a run that could be levers; None where its log holds no list of them."""
    if run.settings is None:
        return None
    return {name: value for name, value in run.settings.items() if not _NO_LEVER.search(name)}


def usual(runs: Iterable[LoggedRun]) -> dict[str, str | None] | None:
    """Return each setting's value in most runs (None: they do not name it), of equally many in the first run.

    So neither a list that another rank's line cut short nor one run of another version moves what a side is. None where no
    run holds a list.
    """
    lists = [settings for run in runs if (settings := said(run)) is not None]
    if not lists:
        return None
    names = sorted({name for one in lists for name in one})
    return {name: Counter(one.get(name) for one in lists).most_common(1)[0][0] for name in names}


def within(runs: Iterable[LoggedRun]) -> dict[str, list[str | None]]:
    """Return settings that differ between the runs of one side, with each run's value."""
    lists = [settings for run in runs if (settings := said(run)) is not None]
    names = sorted({name for one in lists for name in one})
    values = {name: [one.get(name) for one in lists] for name in names}
    return {name: each for name, each in values.items() if len({*each}) > 1}


def levers(x: Sequence[LoggedRun], y: Sequence[LoggedRun]) -> Levers:
    """Name the levers between two sides: none, one, a stack, or unknown."""
    ours, theirs, code = usual(x), usual(y), _code(x, y)
    if ours is None or theirs is None:
        which = "neither side holds" if ours is theirs is None else "one side does not hold"
        programs = {run.code for run in (*x, *y)}
        one = "; all ran one program, byte by byte" if len(programs) == 1 and None not in programs else ""
        text = f"levers unknown: {which} a list of its settings{one}"
        return {"count": None, "of": 0, "names": [], "changes": {}, "code": code, "said": text}
    names = sorted(ours.keys() | theirs.keys())
    changes = {n: [theirs.get(n), ours.get(n)] for n in names if ours.get(n) != theirs.get(n)}
    return {
        "count": len(changes),
        "of": len(names),
        "names": list(changes),
        "changes": changes,
        "code": code,
        "said": _said(changes, len(names), code),
    }


def _code(x: Sequence[LoggedRun], y: Sequence[LoggedRun]) -> str:
    """Compare the program itself where both sides hold it, else its size; it must be one on each side to be equal."""
    programs = [{run.code for run in runs} for runs in (x, y)]
    sizes = [{run.code_bytes for run in runs} for runs in (x, y)]
    for ours, theirs in (programs, sizes):
        if None not in ours | theirs:
            return "equal" if ours == theirs and len(ours) == 1 else "differs"
    return "unknown"


def _said(changes: dict[str, list[str | None]], total: int, code: str) -> str:
    beside = " and the code differs" if code == "differs" else ""
    if not changes:
        code_said = {"differs": ", but the code does", "unknown": ", and the logs do not tell the code"}
        return f"0 of {total} settings differ{code_said.get(code, '')}"
    if len(changes) == 1:
        [(name, (before, after))] = changes.items()
        what = f"{name} {_value(before)} -> {_value(after)}"
        return f"1 of {total} settings differs ({what}){beside}" if beside else f"one lever: {what}"
    more = "" if len(changes) <= SHOWN else f", and {len(changes) - SHOWN} more"
    return f"a stack of {len(changes)}: {', '.join([*changes][:SHOWN])}{more}" + (f";{beside}" if beside else "")


def _value(value: str | None) -> str:
    return "(not named)" if value is None else value or "(empty)"
