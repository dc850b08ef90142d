"""What a study still costs: every step that is not in the store yet, at the time that its like took, once each.

One function adds prices up, whoever says them: `ablab.verdict.price.total`. This module names the steps of every run and
what each takes: the median of the arm's finished runs, else what `ablab check` has timed here, else unknown.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict

from ablab.core.fault import CheckFailed
from ablab.core.files import read_json, write_json
from ablab.records.run import clocked
from ablab.runs.plan import Plan, Run
from ablab.runs.program import read_key, run_key
from ablab.runs.store import score_key, train_key
from ablab.verdict.evidence import Work
from ablab.verdict.price import total

End = Literal["seconds", "fastest", "slowest"]
ENDS: dict[End, Callable[[Sequence[float]], float]] = {"seconds": statistics.median, "fastest": min, "slowest": max}
ANY = -1  # the seed of no run: a key made with it names a step whatever the seed


def recipes(plan: Plan, arm: str) -> tuple[str, dict[str, str]]:
    """Make keys of an arm's training and of its stages that hold for every seed; arms that share a step share its key."""
    run = plan.runs[arm, plan.seeds[0]]
    if run.program is not None:
        trained = run_key(run.settings["runner"], run.program, ANY)
        return trained, {
            stage: read_key(run.settings["runner"], run.metric, trained=trained) for stage in run.score_keys
        }
    elsewhere = "elsewhere" if run.settings["train"]["weights"] else ""
    trained = train_key(run.settings, corpus=plan.corpus(run).key, seed=ANY, where=plan.where, weights=elsewhere)
    return trained, {stage: score_key(run.settings, stage, trained=trained) for stage in run.score_keys}


def measured(plan: Plan, arm: str, end: End = "seconds") -> dict[str, float]:
    """Return seconds of an arm's training (validations included) and of each stage by recipe, medians over finished runs.

    end: instead of the median, the fastest or the slowest of them.
    """
    trained, stages = recipes(plan, arm)
    runs = [plan.runs[arm, seed] for seed in plan.seeds]
    done = [d for run in runs if (d := plan.store.trained(run.train_key)) and d["status"] == "done" and clocked(d)]
    seconds = {trained: [d["seconds"] + d.get("validate_seconds", 0.0) for d in done]}
    for stage, recipe in stages.items():
        seconds[recipe] = [r["seconds"] for run in runs if (r := plan.store.scored(run.score_keys[stage]))]
    return {recipe: ENDS[end](took) for recipe, took in seconds.items() if took}


def known_seconds(plan: Plan, arm: str, end: End = "seconds") -> dict[str, float]:
    """Return what a step takes by recipe: as finished runs tell, else as `ablab check` timed it."""
    return {**timings(plan), **timings(plan, end), **measured(plan, arm, end)}


def work(plan: Plan, end: End = "seconds") -> dict[tuple[str, int], tuple[Work, ...]]:
    """List the steps of every run: what each takes, and whether it is there. What diverged has no stages to come.

    end: what they take at the median, or as the fastest or the slowest sample of each says.
    """
    by_run = dict[tuple[str, int], tuple[Work, ...]]()
    plan = plan.look()
    for arm in plan.study.with_baseline:
        known = known_seconds(plan, arm, end)
        training, stages = recipes(plan, arm)
        for seed in plan.seeds:
            run = plan.runs[arm, seed]
            done = plan.store.trained(run.train_key)
            lost = done is not None and done["status"] != "done"
            made = {key: lost or plan.store.scored(key) is not None for key in run.score_keys.values()}
            keys = [(run.score_keys[stage], known.get(recipe)) for stage, recipe in stages.items()]
            steps = [Work(key, None, seconds, made[key]) for key, seconds in keys]
            if not run.settings["train"]["weights"]:
                steps.insert(
                    0, Work(run.train_key, _tokens(run), _training(run, known.get(training)), done is not None)
                )
            by_run[arm, seed] = tuple(steps)
    return by_run


def _tokens(run: Run) -> float:
    return float(run.settings["budget"]["tokens"] or math.nan)


def _training(run: Run, known: float | None) -> float | None:
    """Return the seconds of the training itself, known under a budget in seconds."""
    seconds = run.settings["budget"]["seconds"]
    return known if known is not None or seconds is None else float(seconds)


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
    from ablab.runs.jobs import default_jobs

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
    trained = 0.0 if run.settings["train"]["weights"] else _training(run, known.get(training))
    each = {stage: known.get(recipe) for stage, recipe in stages.items()}
    own = [*([] if plan.study.shares_weights(arm) else [trained]), *each.values()]
    whole = None if any(part is None for part in own) else sum(part for part in own if part is not None)
    return trained, each, whole


def timings(plan: Plan, end: End = "seconds") -> dict[str, float]:
    """Read what `ablab check` has timed on this machine, by recipe."""
    try:
        kept_times = (
            read_json(_file(plan), "seconds", form=dict[str, dict[str, object]])
            if _file(plan).exists()
            else {"seconds": {}}
        )
    except CheckFailed:
        return {}  # a note of this program's to itself: without it prices are unknown until something has run
    kept = kept_times.get(end, {})
    if not isinstance(kept, dict):
        return {}
    return {key: float(s) for key, s in kept.items() if isinstance(s, int | float) and math.isfinite(s) and s >= 0}


def keep(plan: Plan, samples: Mapping[str, Sequence[float]]) -> None:
    """Write down what was timed, for prices that are said before anything has run: the median and both ends."""
    written = dict[str, dict[str, float]]()
    for end, of in ENDS.items():
        written[end] = {**timings(plan, end), **{key: of(taken) for key, taken in samples.items()}}
    write_json(_file(plan), written)


def unknown(plan: Plan, arm: str, recipe_of: Iterable[str]) -> list[str]:
    """List which of these recipes no finished run of the arm tells the time of."""
    known = measured(plan, arm)
    return [recipe for recipe in recipe_of if recipe not in known]


def _file(plan: Plan) -> Path:
    return plan.directory / "timings.json"
