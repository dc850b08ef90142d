"""Runs that are given up, for memory or for a machine that failed them, and the way back."""

from __future__ import annotations

from ablab.core.files import write_json
from ablab.records.run import FailedRun
from ablab.runs.plan import Plan, Run

OUT_OF_MEMORY = "out of memory"


def give_up(plan: Plan, run: Run, fault: str, kind: str = "") -> None:
    """Put a run on the list of those that were given up; kind: OUT_OF_MEMORY, which another try by itself does not mend."""
    row: FailedRun = {"arm": run.arm, "seed": run.seed, "fault": fault, "keys": sorted(run.steps), "kind": kind}
    others = [
        one
        for one in plan.every_failure()
        if (one["arm"], one["seed"], one.get("keys")) != (run.arm, run.seed, row["keys"])
    ]
    write_json(plan.directory / "failed.json", [*others, row])


def give_up_arm(plan: Plan, arm: str, fault: str) -> None:
    """Put the runs of an arm that are left on the list: the memory that it takes does not hang on the seed."""
    known = {(row["arm"], row["seed"]) for row in plan.failures()}
    for seed in plan.seeds:
        run = plan.runs[arm, seed]
        made = plan.store.trained(run.train_key) and all(map(plan.store.scored, run.score_keys.values()))
        if not made and (arm, seed) not in known:
            give_up(plan, run, fault, kind=OUT_OF_MEMORY)


def try_again(plan: Plan, *, all_of_them: bool = True) -> None:
    """Take this plan's runs off the list of those that were given up; else all but those that ran out of memory."""
    every = plan.every_failure()
    mine = [row for row in plan.failures() if all_of_them or row.get("kind") != OUT_OF_MEMORY]
    write_json(plan.directory / "failed.json", [row for row in every if row not in mine])
