"""From what lies in the store to what the verdict reads: the decision, the arms, and the scores of every run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ablab.core.fault import CheckFailed, Fault, InvalidStudy
from ablab.judging import cost, crossings, history, price, program
from ablab.judging.bank import pooled
from ablab.runs.plan import Plan, Run
from ablab.runs.store import read_lines
from ablab.verdict import judgement
from ablab.verdict.contrasts import Factorial
from ablab.verdict.evidence import ArmSpec, Bank, Decision, DocumentScores, RunScore
from ablab.verdict.rows import Verdict

if TYPE_CHECKING:
    from ablab.data.corpus.groups import Groups
    from ablab.study import Arm, Study


def decision(study: Study) -> Decision:
    """Return the study's decision in the verdict's own words."""
    declared, files = study.decision, study.baseline.settings["train"]["weights"]
    return Decision(
        metric=declared["metric"],
        stage=declared["stage"],
        stages=tuple(study.baseline.settings["stage"]),
        matters=declared["matters"],
        confidence=declared["confidence"],
        start=declared["seeds"]["start"],
        at_most=declared["seeds"]["at_most"],
        probe=declared["seeds"]["probe"],
        keep=declared["seeds"]["keep"],
        tie=tuple(declared["tie"]),
        budget_tokens=0.0 if files else float(study.baseline.settings["budget"]["tokens"] or 0),
        chain=_chain(study.baseline),
        plain=study.runner is not None,
    )


def _chain(arm: Arm) -> dict[str, str]:
    return {name: one["after"] for name, one in arm.settings["stage"].items() if one["after"]}


class Question(NamedTuple):
    """What the verdict is asked about: the arms, and the factorials among them."""

    arms: list[ArmSpec]
    factorials: list[Factorial]


def asked(plan: Plan) -> Question:
    """List what the verdict must know of arms and factorials beyond the arms' scores."""
    study, at = plan.study, plan.study.decision["stage"]
    decisions = history.rows(plan)
    families = {name: status.family for name, status in history.statuses(plan, decisions).items()}
    factorials = list[Factorial]()
    if study.factorials:
        own = crossings.families(plan, decisions, history.own(plan, decisions), families)
        factorials = crossings.factorials(plan, own)
    twins = _twins(plan, at)
    arms = [
        ArmSpec(
            name,
            on=arm.on,
            family=families.get(name, 0),
            same_as=twins.get(name, ""),
            shares_weights=study.shares_weights(name),
            data_is_lever=arm.data_is_lever or arm.budget_is_lever,
            barred=cost.over_limits(plan, name),
            chain=_chain(arm),
        )
        for name, arm in study.with_baseline.items()
    ]
    return Question(arms, factorials)


def _twins(plan: Plan, stage: str) -> dict[str, str]:
    """Map arms whose two scores at `stage` are those of an arm before them, and arms that are their own reference there."""
    seen: dict[frozenset[str], str] = {}
    twins, seed = {}, plan.seeds[0]
    for name, arm in plan.study.arms.items():
        pair = frozenset(plan.runs[one, seed].score_keys[stage] for one in (name, arm.on))
        first = arm.on if len(pair) == 1 else seen.setdefault(pair, name)
        if first != name:
            twins[name] = first
    return twins


def measurable(plan: Plan) -> None:
    """Refuse (InvalidStudy) a probe that has nothing to measure its arms by, and a log that nothing here reads."""
    program.readable(plan)
    if plan.study.decision["seeds"]["keep"] != "2 sigma":
        return
    place = f"{plan.study.path.name}: decision.seeds.keep"
    if shared := [name for name in plan.study.arms if plan.study.shares_weights(name)]:
        fault = f'"2 sigma" measures arms that train, and {shared[0]} shares its reference\'s weights'
        raise InvalidStudy(Fault(place, fault, "keep a number of arms"))
    if bank(plan) is None:
        fault = '"2 sigma" needs the noise of earlier studies like this one, and this store holds none'
        cure = "keep a number of arms, or run a study without a probe first"
        raise InvalidStudy(Fault(place, fault, cure))


def collect(plan: Plan, *, priced: bool = False) -> list[RunScore]:
    """Collect every run's result, as the verdict reads it: done, diverged, failed or absent; priced: with its steps."""
    plan = plan.look()
    failed = {(row["arm"], row["seed"]) for row in plan.failures()}
    common = _common_steps(plan) if plan.study.baseline.settings["budget"]["tokens"] is None else {}
    scores = [_score(plan, run, run_key in failed, common.get(run.seed)) for run_key, run in plan.runs.items()]
    if not priced:
        return scores
    steps = price.work(plan)
    return [replace(score, work=steps[score.arm, score.seed]) for score in scores]


def judged(plan: Plan, bank: Bank | None = None) -> Verdict:
    """Judge everything that exists now."""
    plan = plan.look()
    arms, factorials = asked(plan)
    scores = collect(plan, priced=True)
    return judgement.judge(decision(plan.study), arms, plan.seeds, scores, bank, factorials=factorials)


def wanted(plan: Plan, bank: Bank | None = None) -> list[Run]:
    """List runs still to be done before the next look, seed by seed across arms; empty when the study is finished."""
    plan = plan.look()
    arms, factorials = asked(plan)
    keys = judgement.wanted(decision(plan.study), arms, plan.seeds, collect(plan), bank, factorials=factorials)
    return [plan.runs[arm, seed] for arm, seed in keys]


def _score(plan: Plan, run: Run, failed: bool, common_step: int | None) -> RunScore:
    done = plan.store.trained(run.train_key)
    absent = RunScore(run.arm, run.seed, "failed" if failed else "absent")
    if run.program is not None:
        return program.scored(plan, run.arm, run.seed) or absent
    if done is None:
        return absent
    if done["status"] == "diverged":
        # Under a budget in tokens it consumed a prefix of its siblings' tokens; no pair is made of it either way.
        return RunScore(run.arm, run.seed, "diverged", seconds=done["seconds"])
    whole = common_step is None or not done["steps"]  # no steps: trained elsewhere
    token_hash = done["token_hash"] if whole else _hash_at(plan.store.train(run.train_key), common_step or 0)
    stages: dict[str, DocumentScores | float] = {}
    violations: list[str] = []
    faults: dict[str, str] = {}
    probe, metric = None, plan.study.decision["metric"]
    for stage, key in run.score_keys.items():
        result = plan.store.scored(key)
        if result is None:
            return absent
        violations += [f"{stage}: {violation}" for violation in result["violations"]]
        if result.get("diverged"):
            faults[stage] = str(result["diverged"])
        if result["probe"]:
            score, acc = result["probe"].get("score"), result["probe"].get("acc")
            if probe is None and score is not None and acc is not None:
                probe = (float(score), float(acc))
        else:
            scores = plan.store.scores(key, result)
            try:
                stages[stage] = _documents(scores.of_metric(metric), plan.corpus(run).groups)
            except KeyError as error:
                place, fault = str(plan.store.score(key)), f"stage '{stage}' has no {metric}"
                raise CheckFailed(Fault(place, fault, "choose another metric, or evaluate disjoint")) from error
    points = [(row.get("tokens"), row.get(metric)) for row in done["trajectory"]]
    trajectory = [(float(tokens), float(value)) for tokens, value in points if tokens is not None and value is not None]
    if len(trajectory) < len(points):
        lies = plan.store.train(run.train_key)
        cure = f"delete {lies} to have the run made again"
        raise CheckFailed(Fault(str(lies / "done.json"), f"has a trajectory without {metric}", cure))
    seconds = done["seconds"] if done["steps"] else None
    return RunScore(
        run.arm, run.seed, "done", token_hash, tuple(violations), stages, trajectory, probe, seconds, faults
    )


def _documents(scored: tuple[np.ndarray, np.ndarray, np.ndarray], groups: Groups | None) -> DocumentScores:
    """Return scores by document; an evaluator that reads the first documents only has the groups of these."""
    if groups is None or not len(scored[0]):
        return DocumentScores(*scored)
    return DocumentScores(*scored, groups.numbers[: len(scored[0])], groups.by)


def _common_steps(plan: Plan) -> dict[int, int]:
    """Return under a budget in seconds the last step that every finished run of a seed reached."""
    steps: dict[int, int] = {}
    for (_, seed), run in plan.runs.items():
        done = plan.store.trained(run.train_key)
        if done is not None and done["status"] == "done" and done["steps"]:  # none: trained elsewhere
            steps[seed] = min(steps.get(seed, done["steps"]), done["steps"])
    return steps


def _hash_at(directory: Path, step: int) -> str | None:
    """Return the rolling hash of the tokens consumed up to `step`, from the run's metrics."""
    for row in read_lines(directory / "metrics.jsonl"):
        if row.get("step") == step and "token_hash" in row:
            return str(row["token_hash"])
    fault = f"has no row of step {step}, so the tokens of this run cannot be compared"
    raise CheckFailed(Fault(str(directory / "metrics.jsonl"), fault, f"delete {directory} to have the run made again"))


def bank(plan: Plan) -> Bank | None:
    """Return the bank that this study was declared with; before that, today's: a finished verdict must not change."""
    row = history.recorded(plan)
    if row is None or "bank" not in row:
        return pooled(plan)
    return None if row["bank"] is None else Bank(float(row["bank"]["sd"]), float(row["bank"]["df"]))
