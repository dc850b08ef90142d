"""Runs of a program that is not ours, as a judge reads them: their score, whether the seed acts, what is not the seed."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from ablab.core.fault import Fault, InvalidStudy, did_you_mean
from ablab.judging.compare.side import SURE
from ablab.judging.logs.formats import FORMATS
from ablab.judging.logs.found import NoScore, Score, score
from ablab.records.result import Read, Result
from ablab.records.settings import RunnerSettings
from ablab.runs.plan import Plan
from ablab.study.placeholders import OUT, fill
from ablab.study.record import BASELINE
from ablab.study.runner import STAGE
from ablab.verdict.evidence import RunScore

STDOUT, STDERR = "stdout.txt", "stderr.txt"
ENOUGH = 12  # digits behind points that two runs print alike and are then one: three numbers of four digits
UNPROVEN = (
    "runs are paired by the number of their seed: that two runs of one seed saw equal data is the program's affair, and "
    "nothing here proves it"
)


def readable(plan: Plan) -> None:
    """Refuse (InvalidStudy) a reader that there is not."""
    asked = plan.study.runner
    readers = {one.name for one in FORMATS if not one.binary}
    if asked is not None and asked["log"]["reader"] not in (None, *readers):
        place, name = f"{plan.study.path.name}: runner.log", asked["log"]["reader"]
        raise InvalidStudy(Fault(place, f"no reader is called '{name}'", did_you_mean(str(name), sorted(readers))))


def read(asked: RunnerSettings, metric: str, folder: Path, seed: int) -> Score:
    """Read the score of a run that has ended, in what it wrote in its folder. NoScore where there is none."""
    log, reader, out = asked["log"], None, folder / "out"
    file = folder / STDOUT if log["file"] is None else Path(fill(log["file"], seed, str(out)))
    leads, within = Path(os.path.realpath(file)), Path(os.path.realpath(folder)) / out.name
    if log["file"] is not None and not leads.is_relative_to(within):
        fault = f"leads out of the run's folder, to {leads}"
        raise NoScore(Fault(str(file), fault, f"have the program write the file itself below {OUT}"))
    if log["reader"] is not None:
        reader = next(one.read for one in FORMATS if one.name == log["reader"])
    return score(log, metric.removeprefix("-"), file, reader)


def metrics(metric: str, value: float | None) -> dict[str, float | None]:
    """Return the score under its name; where higher is better, what is judged is its negative."""
    if not metric.startswith("-"):
        return {metric: value}
    return {metric: None if value is None else -value, metric.removeprefix("-"): value}


def scored(plan: Plan, arm: str, seed: int) -> RunScore | None:
    """Return the result of a run; None while it is not there."""
    run = plan.runs[arm, seed]
    done, result = plan.store.trained(run.train_key), plan.store.scored(run.score_keys[STAGE])
    if done is None or result is None:
        return None
    value, seconds = result["metrics"].get(run.metric), done["seconds"]
    if value is None:
        return RunScore(arm, seed, "diverged", seconds=seconds, faults={STAGE: str(result["diverged"])})
    same = one_run(plan, arm, seed)
    told = f"not independent: seeds {same} and {seed} of {arm} print the same numbers, one run under two seeds"
    return RunScore(
        arm, seed, "done", stages={STAGE: value}, seconds=seconds, copied="" if same is None else told
    )  # fmt: skip


def one_run(plan: Plan, arm: str, seed: int) -> int | None:
    """Name the first earlier seed of an arm whose run printed the very scores of this one, and enough of them.

    Enough is a score of six digits, as in the judging of logs, or twelve in all the scores that were printed on the way.
    """
    mine = _read(plan, arm, seed)
    if mine is None:
        return None
    for other in plan.seeds[: plan.seeds.index(seed)]:
        theirs = _read(plan, arm, other)
        if theirs is None:
            continue
        score = mine["digits"] >= SURE and theirs["text"] == mine["text"]
        if score or (mine["echo_digits"] >= ENOUGH and theirs["echo"] == mine["echo"]):
            return other
    return None


def notes(plan: Plan, asked: RunnerSettings, correlation: float | None) -> list[str]:
    """Say what a reader must know of such a study: how runs are paired, whether the seed acts, and what is not the seed."""
    texts = [UNPROVEN + ("" if correlation is None else f"; the correlation found over the pairs is {correlation:.2f}")]
    texts += _equal(plan)
    texts += [floor] if (floor := _floor(plan, asked)) else []
    for name, arm in plan.study.with_baseline.items():
        program = plan.runs[name, plan.seeds[0]].program
        if program is not None and (name == BASELINE or "directory" in str(arm.changes)):
            beside = ", with changes that are not committed" if program.diff else ""
            texts.append(f"{name} runs commit {program.commit[:12]}{beside}, tree {program.tree[:12]}")
    if resumed := [f"{arm}, seed {seed}" for arm, seed in plan.runs if _resumed(plan, arm, seed)]:
        texts.append(f"went on in the folder that they had begun, as runner.resume says: {'; '.join(resumed)}")
    return texts


def _read(plan: Plan, arm: str, seed: int) -> Read | None:
    result: Result | None = plan.store.scored(plan.runs[arm, seed].score_keys[STAGE])
    return None if result is None else result.get("read")


def _resumed(plan: Plan, arm: str, seed: int) -> bool:
    done = plan.store.trained(plan.runs[arm, seed].train_key)
    return bool(done and done.get("program", {}).get("resumed"))


def _values(plan: Plan, arm: str) -> dict[int, float]:
    """Return finite scores of an arm by seed, as the program says them."""
    results = {seed: one for seed in plan.seeds if (one := plan.store.scored(plan.runs[arm, seed].score_keys[STAGE]))}
    name = plan.study.decision["metric"].removeprefix("-")
    return {seed: value for seed, one in results.items() if (value := one["metrics"].get(name)) is not None}


def _equal(plan: Plan) -> list[str]:
    """Name arms in which seeds have one score, where too little was printed to say that they are one run."""
    texts = []
    for arm in plan.study.with_baseline:
        values = _values(plan, arm)
        same = [(a, b) for a, b in combinations(values, 2) if values[a] == values[b]]
        if same and not any(one_run(plan, arm, seed) is not None for seed in values):
            (a, b), read = same[0], _read(plan, arm, same[0][0])
            digits = f" to all {read['digits']} digits" if read else ""
            texts.append(
                f"warning: seeds {a} and {b} of {arm} have one score{digits}: does the program hear of its seed?"
            )
    return texts


def _floor(plan: Plan, asked: RunnerSettings) -> str:
    """Say how far runs of one seed differ, beside how far seeds do."""
    first, values = plan.seeds[0], _values(plan, BASELINE)
    read = _read(plan, BASELINE, first)
    if not asked["repeats"]:
        cure = "runner.repeats = 1 makes the baseline's first seed once more"
        return f"how far two runs of one seed lie apart is not known; {cure}"
    if read is None or first not in values:
        return ""
    again = [one for one in read["repeats"] if one is not None]
    gaps = [abs(one - values[first]) for one in again]
    if len(again) < len(read["repeats"]):
        return f"warning: of {1 + len(read['repeats'])} runs of seed {first} of the baseline some diverged and some did not"
    if not any(gaps):
        return f"{1 + len(again)} runs of seed {first} of the baseline have one score: the program repeats itself"
    floor, seeds = _sd([values[first], *again]), _sd(list(values.values()))
    beside = "" if seeds is None else f"; over seeds the sd is {seeds:.3g}"
    part = " and nothing of that is the seed's" if floor and seeds and floor >= seeds else ""
    return (
        f"{1 + len(again)} runs of seed {first} of the baseline lie {max(gaps):.3g} apart (sd {floor:.3g}): the floor of what "
        f"is not the seed{beside}{part}"
    )


def _sd(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None


def baseline(asked: RunnerSettings) -> Mapping[str, object]:
    """Return the baseline's settings for people: what is not set left out."""
    log = {key: value for key, value in asked["log"].items() if value is not None and not (key == "last" and value)}
    return {**asked, "log": log}
