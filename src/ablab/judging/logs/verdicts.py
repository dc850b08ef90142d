"""ablab's own verdict.json: its ledger of runs, one score a stage."""

from __future__ import annotations

import re

from ablab.judging.logs.building import level_of
from ablab.judging.logs.document import document, fields, flat, items, place_of, printed, seconds, whole
from ablab.judging.logs.text import Text
from ablab.records.log import Level, LoggedRun

NAME = "verdict"
MARK = re.compile(rb'"decided_by"\s*:')
_UNIT = {"bits_per_byte": "bpb", "nats_per_token": "nats"}


def read(text: Text) -> list[LoggedRun]:
    """Read the runs that ended with a score or diverged; facts are what an arm changes against the baseline."""
    answer = fields(document(text))
    unit = _UNIT.get(str(answer.get("metric")), "value")
    changes = {str(fields(arm).get("name")): _changes(fields(arm)) for arm in items(answer.get("arms"))}
    start, runs = max(0, text.whole.find('"runs"')), []
    for one in items(answer.get("runs")):
        run = fields(one)
        arm, seed = run.get("arm"), whole(run.get("seed"))
        start = max(start, place_of(text, "arm", start + 1))
        line = text.line_at(start)
        stages: dict[str, Level] = {}
        for name, value in fields(run.get("metrics")).items():
            told = printed(value)
            if told is not None and (level := level_of(line, **{unit: told})) is not None:
                stages[name] = level
        status = run.get("status")
        lost = {name: line for name in fields(run.get("metrics")) or ["val"]} if status == "diverged" else {}
        if isinstance(arm, str) and (stages or lost):
            if lost:
                stages = {}
                text.odd(line, f"the run of {arm[:40]!r} at seed {seed} diverged and has no score")
            notes = [] if status == "done" else [f"its status is {str(status)[:40]}"]
            runs.append(LoggedRun(text.path, line, stages, None, seed, tokens=whole(run.get("tokens")), notes=notes,
                                   seconds=seconds(run.get("seconds")), facts=changes.get(arm, {}), arm=arm,
                                   complete=status == "done", reader=NAME, lost=lost))  # fmt: skip
    return runs


def _changes(arm: dict[str, object]) -> dict[str, str]:
    told = [fields(one) for one in items(arm.get("changes"))]
    return {key: one for change in told for key, one in flat({str(change.get("path")): change.get("after")}).items()}
