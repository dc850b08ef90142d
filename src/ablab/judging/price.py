"""What a study still costs: every step that is not in the store yet, at the time that its like took, once each.

This module names the steps of every run and what each takes: the median of the arm's finished runs, else what `ablab check`
has timed here, else unknown. The verdict adds them up (`ablab.verdict.price.total`), and so do the prices that are told before
money is spent (`ablab.check.quote`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from ablab.core.fault import CheckFailed
from ablab.core.files import read_json
from ablab.records.run import clocked
from ablab.runs.plan import Plan, Run
from ablab.runs.program import read_key, run_key
from ablab.runs.store import score_key, train_key
from ablab.verdict.evidence import Work

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
                    0, Work(run.train_key, _tokens(run), trained_in(run, known.get(training)), done is not None)
                )
            by_run[arm, seed] = tuple(steps)
    return by_run


def _tokens(run: Run) -> float:
    return float(run.settings["budget"]["tokens"] or math.nan)


def trained_in(run: Run, known: float | None) -> float | None:
    """Return the seconds of the training itself, known under a budget in seconds."""
    seconds = run.settings["budget"]["seconds"]
    return known if known is not None or seconds is None else float(seconds)


def timings(plan: Plan, end: End = "seconds") -> dict[str, float]:
    """Read what `ablab check` has timed on this machine, by recipe."""
    try:
        kept_times = (
            read_json(timed_in(plan), "seconds", form=dict[str, dict[str, object]])
            if timed_in(plan).exists()
            else {"seconds": {}}
        )
    except CheckFailed:
        return {}  # a note of this program's to itself: without it prices are unknown until something has run
    kept = kept_times.get(end, {})
    if not isinstance(kept, dict):
        return {}
    return {key: float(s) for key, s in kept.items() if isinstance(s, int | float) and math.isfinite(s) and s >= 0}


def timed_in(plan: Plan) -> Path:
    """Return the file of what `ablab check` has timed."""
    return plan.directory / "timings.json"
