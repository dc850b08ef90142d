"""What a study can show: the smallest effect and the smallest tie of each arm, by the noise of its own kind that is known."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import TypedDict

from ablab.judging import collect, cost, crossings, noise
from ablab.runs.plan import Plan
from ablab.study.record import BASELINE
from ablab.verdict import planning

Spread = tuple[float | None, str]


class Resolution(TypedDict):
    """What of an effect, and of a tie, seeds up to at_most can show; in units of the spread where `sd` is not known."""

    sd: float | None
    source: str
    mde: float | None
    tie: float | None
    in_units_of_s: bool
    warning: str
    looks: list[int]


class Reach(Resolution):
    """That of the arm of which least can be shown, and of each; interaction: the MDE of the loudest interaction of two, if any
    are asked for, of cells as noisy as that arm."""

    arms: dict[str, Resolution]
    interaction: float | None


def reach(plan: Plan) -> Reach:
    """Compute MDE and smallest tie of the plan, and of each arm by what is known of its own noise.

    The spread of an arm is that of its own pairs in the store, from three on. Else, of an arm that trains: the bank's, or
    an upper bound from three baseline seeds, or from the shipped bank before any seed exists. Nothing else is like an arm
    that shares its reference's weights, whose differences are far quieter than those of trainings. Where nothing is known
    numbers are in units of s, the sd of paired differences.
    """
    asked, declared = plan.study.decision["seeds"], plan.study.decision
    family = len(plan.study.arms) + len(crossings.asked(plan))
    promoted = asked["keep"] if asked["probe"] and isinstance(asked["keep"], int) else family
    by_arm: dict[str, Resolution] = {}
    for name, (sd, source) in _spreads(plan).items():
        of = planning.plan(
            asked["start"], asked["at_most"], promoted, declared["matters"], sd, 1 - declared["confidence"]
        )
        by_arm[name] = {
            "sd": sd, "source": source, "mde": of.mde, "tie": of.tie, "in_units_of_s": of.in_units_of_s,
            "warning": of.warning, "looks": list(of.looks),
        }  # fmt: skip
    least = max(by_arm.values(), key=lambda one: (one["in_units_of_s"], one["sd"] or 0.0))
    pairs = [one.line for factorial in crossings.factorials(plan) for one in factorial.contrasts(2)]
    louder = max((math.sqrt(sum(x * x for _, x in line.terms) / 2) for line in pairs), default=None)  # 2: of an arm's
    smallest = None if louder is None or least["mde"] is None else louder * least["mde"]
    return {**least, "arms": by_arm, "interaction": smallest}


def _spreads(plan: Plan) -> dict[str, Spread]:
    """Return (sd of paired differences, where it is from) of every arm; None where nothing like it is known."""
    done = dict[str, dict[int, float]]()
    for run in collect.collect(plan):
        if run.status == "done" and plan.study.decision["stage"] in run.stages:
            done.setdefault(run.arm, {})[run.seed] = plan.metric(run)
    trained = _of_trainings(plan, done)
    quiet = "unknown until 3 pairs of its own, trainings differ by more; in units of s, the sd of paired differences"
    if plan.study.decision["seeds"]["at_most"] == 1:
        quiet = "of one checkpoint the interval is over documents, and their spread is known once it is scored; in units of s"
    spreads: dict[str, Spread] = {}
    for name, arm in plan.study.arms.items():
        mine, theirs = done.get(name, {}), done.get(arm.on, {})
        own = [mine[seed] - theirs[seed] for seed in plan.seeds if seed in mine and seed in theirs]
        if len(own) >= 3 and (sd := statistics.stdev(own)) > 0:
            spreads[name] = sd, f"sd {sd:.4g} of its own {len(own)} pairs"
        else:
            spreads[name] = (None, quiet) if plan.study.shares_weights(name) else trained
    return spreads


def _of_trainings(plan: Plan, done: Mapping[str, Mapping[int, float]]) -> Spread:
    """Return what is known of arms that train and have no three pairs of their own yet."""
    bank, base = collect.bank(plan), list(done.get(BASELINE, {}).values())
    if bank is not None:
        return bank.sd, f"sd {bank.sd:.4g} of earlier differences like these ({bank.df:g} degrees of freedom)"
    if len(base) >= 3:
        sd, n = math.sqrt(2) * statistics.stdev(base), len(base)
        return sd, f"sqrt(2) times the sd of {n} baseline seeds: an upper bound, unpaired"
    if (like := shipped(plan)) is not None:
        return like
    return None, "unknown until 3 baseline seeds; in units of s, the sd of paired differences"


def shipped(plan: Plan) -> Spread | None:
    """Return the upper bound by the shipped bank of noise before any seed exists; None where no family is like the study.

    None for a program that is not ours: what its score is of, nobody here knows.
    """
    if plan.study.runner is not None:
        return None
    run = plan.runs[BASELINE, plan.seeds[0]]
    valid = plan.corpus(run).valid
    decision, n_bytes = plan.study.decision, valid.n_scored_bytes
    row = noise.like(
        decision["metric"],
        decision["stage"],
        ratio=valid.n_targets / (n_bytes * math.log(2)) if n_bytes else math.nan,
        parameters=cost.sizes(plan, BASELINE)["parameters"],
    )
    if row is None:
        return None
    sd, family = row
    said = f"sqrt(2) x {sd:.2g}, how much one run differs in {family}: public numbers, none of this study's"
    return math.sqrt(
        2
    ) * sd, f"{said}; pairing is not counted, so it is more than pairs differ by where the noise is alike"
