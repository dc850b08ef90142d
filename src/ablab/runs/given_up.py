"""Runs that were given up, for memory or for a machine that failed them: the list of them, and its way back."""

from __future__ import annotations

from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import read_json, write_json
from ablab.core.forms import fits
from ablab.records.run import FailedRun
from ablab.runs.plan import Plan, Run

OUT_OF_MEMORY = "out of memory"


def failures(plan: Plan) -> list[FailedRun]:
    """List the runs of this plan given up for infrastructure.

    `failed.json` lies under the study's name, which an edited study has too: rows of runs with other keys are not meant.
    """
    given_up = (row for row in _given_up(plan) if (row["arm"], row["seed"]) in plan.runs)
    return [row for row in given_up if set(row.get("keys", ())) == plan.runs[row["arm"], row["seed"]].steps]


def give_up(plan: Plan, run: Run, fault: str, kind: str = "") -> None:
    """Put a run on the list of those that were given up; kind: OUT_OF_MEMORY, which another try by itself does not mend."""
    row: FailedRun = {"arm": run.arm, "seed": run.seed, "fault": fault, "keys": sorted(run.steps), "kind": kind}
    write_json(plan.directory / "failed.json", [*_given_up(plan), row])


def give_up_arm(plan: Plan, arm: str, fault: str) -> None:
    """Put the runs of an arm that are left on the list: the memory that it takes does not hang on the seed."""
    known = {(row["arm"], row["seed"]) for row in failures(plan)}
    for seed in plan.seeds:
        run = plan.runs[arm, seed]
        made = plan.store.trained(run.train_key) and all(map(plan.store.scored, run.score_keys.values()))
        if not made and (arm, seed) not in known:
            give_up(plan, run, fault, kind=OUT_OF_MEMORY)


def try_again(plan: Plan, *, all_of_them: bool = True) -> None:
    """Take this plan's runs off the list of those that were given up; else all but those that ran out of memory."""
    every = _given_up(plan)
    mine = [row for row in failures(plan) if all_of_them or row.get("kind") != OUT_OF_MEMORY]
    write_json(plan.directory / "failed.json", [row for row in every if row not in mine])


def _given_up(plan: Plan) -> list[FailedRun]:
    path = plan.directory / "failed.json"
    rows: object = read_json(path) if path.exists() else []
    if not fits(rows, list[FailedRun]):
        raise CheckFailed(Fault(str(path), "does not hold a list of runs", "delete it to have them tried again"))
    return rows
