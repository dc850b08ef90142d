"""What was changed by hand in the records of a study that nothing else guards: decisions, ledger, metrics of runs.

Files of one document carry a digest of themselves; files of rows carry a chain (`ablab.core.chain`), whose last digest stands
in another file as well: of a run's metrics in its done.json, of the study's own files in its verdict.json.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NotRequired, TypedDict

from ablab.core import chain
from ablab.core.fault import CheckFailed, Fault, Refused
from ablab.core.files import read_json
from ablab.core.opened import opened
from ablab.core.strict_json import MOST
from ablab.records.run import End
from ablab.runs.plan import Plan
from ablab.training.metrics import WALL


class Chains(TypedDict):
    """What of a verdict tells where the study's own files ended."""

    chains: NotRequired[dict[str, End]]


def changed(plan: Plan) -> tuple[list[str], dict[str, End]]:
    """List what is to be warned of, with file and line, and the ends of the study's own files, to be kept in its verdict.

    An end that is missing stays the end: the warning does not go away because it was given once.
    """
    before, warnings, ends = _kept(plan), list[str](), dict[str, End]()
    for name in ("decisions.jsonl", "ledger.jsonl"):
        end = before.get(name)
        said, last, count = _looked(plan.directory / name, end=end["chain"] if end else "")
        warnings += said
        lost = any("its end is missing" in line for line in said)
        if lost or last:
            ends[name] = end if lost and end else {"rows": count, "chain": last}
    warnings += _looked(plan.store.root / "decisions.jsonl")[0]
    for key in sorted({run.train_key for run in plan.runs.values()}):
        done = plan.store.trained(key)
        if done is not None and (kept := done.get("metrics")):  # of runs of before there were chains nothing is known
            metrics, last = plan.store.train(key) / "metrics.jsonl", str(kept["chain"])
            look = functools.partial(_looked, aside=WALL, end=last)
            warnings += (plan.store.once(str(metrics), f"chain to {last}", look) or look(metrics))[0]
    return warnings, ends


def _kept(plan: Plan) -> dict[str, End]:
    """Read the ends of the study's own files when it was last judged."""
    file = plan.directory / "verdict.json"
    with suppress(Refused, OSError):
        ends: dict[str, End] = read_json(file, form=Chains).get("chains", {}) if file.exists() else {}
        return ends
    return {}


def _looked(path: Path, *, aside: Collection[str] = (), end: str = "") -> tuple[list[str], str, int]:
    """Check as `chain.check`, with the file's name before each line."""
    if not path.exists():
        return ([f"{path}: is missing"] if end else []), "", 0
    try:
        with opened(path) as file:
            lines: Iterator[bytes] = iter(lambda: file.readline(MOST), b"")
            said, last, count = chain.check(lines, aside=aside, end=end)
    except OSError as error:
        raise CheckFailed(Fault(str(path), f"cannot be read ({error})", "move it away, or make it readable")) from error
    return [f"{path}: {line}" for line in said], last, count
