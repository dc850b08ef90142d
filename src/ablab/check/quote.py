"""What a study will cost, told before money is spent: of so many seeds of every arm, and of one run."""

from __future__ import annotations

from typing import TypedDict

from ablab.judging.price import ENDS, End, known_seconds, recipes, trained_in, work
from ablab.runs.jobs import default_jobs
from ablab.runs.plan import Plan
from ablab.verdict.price import total


class Bound(TypedDict):
    """What so many seeds of every arm cost, less what exists: trainings (runs), stages (evaluations), and steps one after
    another. wall_seconds: as `ablab run` does them, so many side by side as it does by default (`jobs`). fastest, slowest: the
    seconds if every step took what its fastest or its slowest sample did. None: something was never timed."""

    runs: int
    evaluations: int
    tokens: float | None
    seconds: float | None
    fastest: float | None
    slowest: float | None
    hours: float | None
    wall_seconds: float | None
    jobs: int


class RunTime(TypedDict):
    """Seconds of one run of an arm: train_seconds (validations included), stage_seconds, and all of it; None: unknown.
    spread_per_run: all of it as the fastest and as the slowest sample of every step says."""

    train_seconds: float | None
    stage_seconds: dict[str, float | None]
    seconds_per_run: float | None
    spread_per_run: list[float | None]


def bounds(plan: Plan) -> dict[str, Bound]:
    """Price the study from `start` to `at_most` seeds of every arm."""
    plan = plan.look()
    declared, steps, jobs = plan.study.decision["seeds"], work(plan), default_jobs(plan)
    fastest, slowest = work(plan, "fastest"), work(plan, "slowest")
    counts = {"start": declared["start"] + declared["probe"], "at_most": declared["at_most"] + declared["probe"]}
    prices = dict[str, Bound]()
    for bound, n in counts.items():
        chosen = set(plan.seeds[:n])
        asked = {key: one for key, one in steps.items() if key[1] in chosen}
        price = total(step for one in asked.values() for step in one)
        waiting = sum(any(not step.done for step in one) for one in asked.values())
        side_by_side = max(1, min(jobs, waiting))
        prices[bound] = {
            "runs": price.runs,
            "evaluations": price.evaluations,
            "tokens": price.tokens,
            "seconds": price.seconds,
            "fastest": total(step for key in asked for step in fastest[key]).seconds,
            "slowest": total(step for key in asked for step in slowest[key]).seconds,
            "hours": None if price.seconds is None else price.seconds / 3600,
            "wall_seconds": None if price.seconds is None else price.seconds / side_by_side,
            "jobs": side_by_side,
        }
    return prices


def of_run(plan: Plan, arm: str) -> RunTime:
    """Return what one run of an arm takes."""
    trained, each, whole = _of_run(plan, arm, "seconds")
    spread = [_of_run(plan, arm, end)[2] for end in ENDS if end != "seconds"]
    return {"train_seconds": trained, "stage_seconds": each, "seconds_per_run": whole, "spread_per_run": spread}


def _of_run(plan: Plan, arm: str, end: End) -> tuple[float | None, dict[str, float | None], float | None]:
    known, (training, stages) = known_seconds(plan, arm, end), recipes(plan, arm)
    run = plan.runs[arm, plan.seeds[0]]
    trained = 0.0 if run.settings["train"]["weights"] else trained_in(run, known.get(training))
    each = {stage: known.get(recipe) for stage, recipe in stages.items()}
    own = [*([] if plan.study.shares_weights(arm) else [trained]), *each.values()]
    whole = None if any(part is None for part in own) else sum(part for part in own if part is not None)
    return trained, each, whole
