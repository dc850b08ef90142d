"""The rungs of a ladder: scales of a study, each with a fixed number of seeds and a counted compute."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ablab.core.fault import CheckFailed, Fault
from ablab.judging import collect, cost
from ablab.records.settings import DecisionSettings
from ablab.report import words
from ablab.runs import planning
from ablab.runs.plan import Plan
from ablab.study.record import BASELINE
from ablab.verdict import RunScore
from ablab.verdict import ladder as maths

if TYPE_CHECKING:
    from ablab.study import Study


MOST = 1000  # seeds, as of a study


@dataclass(frozen=True)
class Stood:
    """A rung as it stands: its plan with a fixed number of seeds, its scores by (arm, seed), and log10 of its FLOPs."""

    plan: Plan
    scores: Mapping[tuple[str, int], RunScore]
    flops: float

    @property
    def scale(self) -> str:
        """The rung's name."""
        return str(self.plan.study.scale)

    @property
    def x(self) -> float:
        """Where it stands."""
        return math.log10(self.flops)


def asked(rungs: Sequence[Study], seeds: Sequence[int] | None) -> list[int]:
    """Return the seeds of each rung: as given, else what the file plans at most.

    CheckFailed for numbers that fit no rungs, a scale that is named twice, and runs of a program.
    """
    for study in rungs:
        study.trained_here("a ladder")
    names = [str(study.scale) for study in rungs]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise CheckFailed(Fault("--scales", f"names {twice[0]} twice", "name each scale once"))
    if seeds is None:
        return [study.decision["seeds"]["at_most"] for study in rungs]
    if len(seeds) != len(rungs):
        fault = f"{len(seeds)} numbers for {len(rungs)} scales"
        raise CheckFailed(Fault("--seeds", fault, "give one number for each scale, in the order of --scales"))
    if low := [n for n in seeds if n < 1]:
        raise CheckFailed(Fault("--seeds", f"{low[0]} is below 1", "give 2 or more: one seed has no interval"))
    if high := [n for n in seeds if n > MOST]:
        raise CheckFailed(Fault("--seeds", f"{high[0]} is more than {MOST:,}", "give what the runs can be made for"))
    return [*seeds]


def fixed(plan: Plan, seeds: int) -> Plan:
    """Plan so many seeds of every arm, whatever its looks would say: seeds of a ladder are fixed before it."""
    study = plan.study
    if {**study.decision["seeds"], "first": 0} == {
        "first": 0,
        "start": seeds,
        "at_most": seeds,
        "probe": 0,
        "keep": None,
    }:
        return plan
    asked = {**study.decision["seeds"], "start": seeds, "at_most": seeds, "probe": 0, "keep": None}
    decision: DecisionSettings = {**study.decision, "seeds": asked, "tie": []}  # type: ignore[typeddict-item]
    of_arm = {name: plan.corpus(plan.runs[name, plan.seeds[0]]) for name in study.with_baseline}
    return planning.on(replace(study, decision=decision), plan.store, plan.where, of_arm)


def flops(plan: Plan, name: str) -> float:
    """Count the training FLOPs of one run of an arm: what one token takes, times the tokens of all its steps."""
    return cost.sizes(plan, name)["flops_per_token"] * tokens(plan, name)


def tokens(plan: Plan, name: str) -> int:
    budget = plan.runs[name, plan.seeds[0]].settings["budget"]
    return math.ceil((budget["tokens"] or 0) / budget["batch_tokens"]) * budget["batch_tokens"]


def check(rungs: Sequence[Plan], at: float | None = None) -> None:
    """Refuse (CheckFailed) scales that are no rungs of one ladder: another metric, no compute that can be counted, no order.

    at: FLOPs of a target, which must lie within what rungs of two seeds or more reach.
    """
    faults = []
    if len(rungs) < maths.FEWEST:
        cure = f"name {maths.FEWEST} scales or more: --scales small,middle,large"
        faults.append(Fault("--scales", f"{len(rungs)} rungs make no ladder", cure))
    first = rungs[0].study.decision
    for plan in rungs:
        study, place = plan.study, f"scale {plan.study.scale}"
        if study.baseline.settings["train"]["weights"]:
            cure = "give scales that train their own models"
            faults.append(Fault(place, "takes weights that were trained elsewhere: their compute is not known", cure))
        elif study.baseline.settings["budget"]["tokens"] is None:
            cure = "give budget.tokens on every rung"
            faults.append(Fault(place, "has a budget in seconds: its arms train with unequal compute", cure))
        for key in ("metric", "stage", "confidence"):
            if study.decision[key] != first[key]:
                fault = f"decision.{key} is {study.decision[key]} and was {first[key]} on {rungs[0].study.scale}"
                faults.append(Fault(place, fault, "judge every rung by one rule"))
    sizes = {plan.corpus(plan.runs[BASELINE, plan.seeds[0]]).vocab_size for plan in rungs}
    if len(sizes) > 1 and first["metric"] != "bits_per_byte":
        fault = f"the rungs have tokenizers of {' and '.join(f'{n:,}' for n in sorted(sizes))} entries"
        faults.append(
            Fault("decision.metric", f"{fault}: {first['metric']} is another unit there", 'use "bits_per_byte"')
        )
    if faults:
        raise CheckFailed(faults)
    places = sorted(math.log10(flops(plan, BASELINE)) for plan in rungs if len(plan.seeds) > 1)
    if at is not None and len(places) >= maths.FEWEST:
        within(at, places[-1], places[-1] + maths.SHOWN * (places[-1] - places[0]))


def within(at: float, least: float, most: float) -> float:
    """Return log10 of a target's FLOPs. CheckFailed where it does not lie between these."""
    x = math.log10(at)
    if x < least - 1e-9:
        cure = f"give {words.flops(10**least)} or more; what lies below has rungs of its own"
        raise CheckFailed(Fault("--at", f"{words.flops(at)} FLOPs is below the top rung", cure))
    if x > most + 1e-9:
        cure = f"give at most {words.flops(10**most)}, or add a rung nearer to it"
        raise CheckFailed(Fault("--at", f"{words.flops(at)} FLOPs is beyond what this ladder reaches", cure))
    return x


def stand(rungs: Sequence[Plan]) -> list[Stood]:
    """Order the rungs by compute, each with what the store has. CheckFailed where two need the same."""
    standings = []
    for plan in rungs:
        looked = plan.look()
        scores = {(score.arm, score.seed): score for score in collect.collect(looked)}
        standings.append(Stood(looked, scores, flops(plan, BASELINE)))
    standings.sort(key=lambda rung: rung.x)
    for below, above in zip(standings, standings[1:]):
        if math.isclose(below.flops, above.flops, rel_tol=1e-3):
            fault = f"trains with the compute of {below.scale} ({words.flops(above.flops)} FLOPs)"
            raise CheckFailed(Fault(f"scale {above.scale}", fault, "give rungs that differ in it, by 4x or so each"))
    return standings
