"""What a study's runs are at, on whatever machine: which are done, which somebody makes, which wait to be taken."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TypedDict

from ablab.core.opened import opened
from ablab.core.strict_json import record
from ablab.judging import collect
from ablab.launch.joint import present
from ablab.runs.plan import Plan, Run
from ablab.runtime import lock

TAIL = 1 << 16  # bytes of a run's metrics that hold its last step


class RunStatus(TypedDict):
    """state: done, diverged, given up, being made, or wanted. holder: who makes it. step: the last; stage: what is made."""

    arm: str
    seed: int
    state: str
    holder: str
    step: int
    stage: str
    fault: str
    key: str


class StudyStatus(TypedDict):
    """at: the commands that are at the study. runs: those that are asked for until the next look, in the verdict's order."""

    study: str
    scale: str | None
    at: list[str]
    counts: dict[str, int]
    runs: list[RunStatus]


def status(plan: Plan) -> StudyStatus:
    """Return what the runs of a plan are at now. Nothing is waited for, and nobody's work is touched."""
    plan = plan.look()
    faults = {(row["arm"], row["seed"]): row["fault"] for row in plan.failures()}
    wanted = {(run.arm, run.seed) for run in collect.wanted(plan, collect.bank(plan))}
    rows = [_row(plan, run, faults.get(name), name in wanted) for name, run in plan.runs.items()]
    asked = [row for row in rows if row["state"]]
    counts = dict[str, int]()
    for row in asked:
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    at = [who for _, who in present(plan.directory)]
    return {"study": plan.study.name, "scale": plan.study.scale, "at": at, "counts": counts, "runs": asked}


def _row(plan: Plan, run: Run, fault: str | None, wanted: bool) -> RunStatus:
    """Say what one run is at; no state: it is not asked for."""
    store, folder = plan.store, plan.store.train(run.train_key)
    done = store.trained(run.train_key)
    missing = [stage for stage, key in run.score_keys.items() if store.scored(key) is None]
    state, holder, stage = "wanted" if wanted else "", "", ""
    if done is not None and (done["status"] == "diverged" or not missing):
        state = done["status"]
    elif done is None and (holder := lock.holder(folder)):
        state = "being made"
    elif done is not None and (at := [(one, lock.holder(store.score(run.score_keys[one]))) for one in missing]):
        stage, holder = next(((one, who) for one, who in at if who), ("", ""))
        state = "being made" if holder else state
    if fault is not None and not holder:
        state = "given up"
    step = 0 if not state else (done["steps"] if done else _step(folder))
    last = (fault or "").strip().splitlines()[-1:]
    return {
        "arm": run.arm, "seed": run.seed, "state": state, "holder": holder, "step": step, "stage": stage,
        "fault": last[0] if last and state == "given up" else "", "key": run.train_key,
    }  # fmt: skip


def _step(folder: Path) -> int:
    """Read the last step off a run's metrics; 0 where there is none."""
    with contextlib.suppress(OSError), opened(folder / "metrics.jsonl") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
        for line in reversed(file.read().splitlines()):
            with contextlib.suppress(ValueError):
                row = record(line)
                if isinstance(row, dict) and isinstance(row.get("step"), int):
                    return int(row["step"])
    return 0
