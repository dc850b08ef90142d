"""What the report draws beside the words: levels, losses by position, probes, artifacts. Like is put beside like.

Seeds differ by more than arms do. So a level is a mean over the seeds at which every arm has a result, and a difference is
taken seed by seed over the pairs from which the arm's own word was read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from ablab.core.forms import fits
from ablab.judging import cost
from ablab.records.answer import ArtifactAnswer, BandAnswer, PositionAnswer, ProbeAnswer, Row
from ablab.records.result import Bands, Passkey, Result
from ablab.records.run import Validated
from ablab.runs.plan import Plan

T = TypeVar("T")
Pairs = Mapping[str, Sequence[int]]  # arm -> the seeds of its pairs
Map = list[list[float | None]]


def pairs(plan: Plan, rows: Sequence[Row]) -> dict[str, list[int]]:
    """List per arm the seeds that its word was read from; before its first look those with it and its reference done."""
    return {row["name"]: list(row["pairs"] or _both(plan, row["name"], row["on"])) for row in rows if row["on"]}


def _both(plan: Plan, name: str, on: str) -> list[int]:
    return [seed for seed in plan.seeds if _done(plan, name, seed) and _done(plan, on, seed)]


def _done(plan: Plan, name: str, seed: int) -> bool:
    run = plan.runs[name, seed]
    done = plan.store.trained(run.train_key)
    return bool(done and done["status"] == "done" and all(map(plan.store.scored, run.score_keys.values())))


def shared(plan: Plan) -> list[int]:
    """List the seeds at which every arm with any finished run has finished one; all seeds where the arms share none."""
    done = {name: {s for s in plan.seeds if _done(plan, name, s)} for name in plan.study.with_baseline}
    common = set.intersection(*(seeds or set(plan.seeds) for seeds in done.values()))
    return [seed for seed in plan.seeds if seed in common] or plan.seeds


def levels(plan: Plan) -> dict[str, dict[str, float]]:
    """Average every metric of each arm at the deciding stage over the seeds that all arms share."""
    means: dict[str, dict[str, float]] = {}
    for name, by_seed in _alike(_parts(plan, plan.study.decision["stage"], lambda r: r["metrics"])).items():
        rows = list(by_seed.values())
        sums = {metric: _sum([row.get(metric) for row in rows]) for metric in rows[0]}
        if known := {metric: total / len(rows) for metric, total in sums.items() if total is not None}:
            means[name] = known
    return means


def bands(plan: Plan, paired: Pairs) -> dict[str, dict[str, BandAnswer]]:
    """Return by band, per stage and arm: nats per token (ratio of sums) and tokens scored per seed, over shared seeds.

    `difference` is that of nats per token to the reference's, over the arm's pairs (`pairs`) and in the bands that both
    have: rows of other lengths share all but their last ones. null where a band is not the reference's.
    """
    by_stage: dict[str, dict[str, BandAnswer]] = {}
    for stage in plan.stages:
        every = _parts(plan, stage, lambda r: r["bands"])
        for name, by_seed in _alike(every).items():
            rows = list(by_seed.values())
            tokens = [sum(column) / len(rows) for column in zip(*(row["tokens"] for row in rows))]
            rates: BandAnswer = {
                "edges": rows[0]["edges"],
                "nats_per_token": _rates(rows),
                "tokens": tokens,
                "seeds": list(by_seed),
            }
            by_stage.setdefault(stage, {})[name] = rates
        for name, seeds in paired.items():
            mine, theirs = every.get(name, {}), every.get(plan.study.arm(name).on, {})
            common = [seed for seed in seeds if seed in mine and seed in theirs]
            if common and name in by_stage.get(stage, {}):
                here = by_stage[stage][name]
                here["difference"] = _gaps([mine[seed] for seed in common], [theirs[seed] for seed in common])
                here["pairs"] = common
    return by_stage


def _sum(column: Sequence[float | None]) -> float | None:
    """Sum the numbers; None where one of them is none."""
    known = [value for value in column if value is not None]
    return sum(known) if len(known) == len(column) else None


def _rates(rows: Sequence[Bands]) -> list[float | None]:
    """Return nats per token of every band, all rows together; None where a band has no token or a number that is none."""
    nats = [_sum(column) for column in zip(*(row["nats"] for row in rows))]
    tokens = [sum(column) for column in zip(*(row["tokens"] for row in rows))]
    return [n / t if t and n is not None else None for n, t in zip(nats, tokens)]


def _gaps(mine: Sequence[Bands], theirs: Sequence[Bands]) -> list[float | None]:
    there = dict(zip(zip(theirs[0]["edges"], theirs[0]["edges"][1:]), _rates(theirs)))
    own = zip(zip(mine[0]["edges"], mine[0]["edges"][1:]), _rates(mine))
    return [a - b if a is not None and (b := there.get(band)) is not None else None for band, a in own]


def positions(plan: Plan) -> dict[str, PositionAnswer]:
    """Count training tokens by position in their rows, per arm: means over finished trainings."""
    by_arm: dict[str, PositionAnswer] = {}
    for name in plan.study.with_baseline:
        done = [plan.store.trained(plan.runs[name, seed].train_key) for seed in plan.seeds]
        rows = [row for one in done if one and one["status"] == "done" and (row := one.get("positions"))]
        if rows:
            trained = [sum(column) / len(rows) for column in zip(*(row["tokens"] for row in rows))]
            by_arm[name] = {"edges": [*rows[0]["edges"]], "trained": trained}
    return by_arm


def validated(plan: Plan) -> dict[str, Validated]:
    """Say what text every point of a trajectory scores, per arm: documents, tokens, bytes, and whether it is all there is."""
    by_arm: dict[str, Validated] = {}
    for name in plan.study.with_baseline:
        done = (plan.store.trained(plan.runs[name, seed].train_key) for seed in plan.seeds)
        if (first := next((one["validated"] for one in done if one and one.get("validated")), None)) is not None:
            by_arm[name] = first
    return by_arm


def artifacts(plan: Plan) -> dict[str, dict[str, ArtifactAnswer]]:
    """Return every packed artifact's account: stage -> arm -> bytes, schemes, prediction, rotation, correction."""
    by_stage: dict[str, dict[str, ArtifactAnswer]] = {}
    for name in plan.study.with_baseline:
        for stage, account in cost.artifacts(plan, name).items():
            by_stage.setdefault(stage, {})[name] = account
    return by_stage


def needles(plan: Plan, paired: Pairs) -> dict[str, ProbeAnswer]:
    """Average the probe's grids per arm over the seeds that all share; `difference`: of the passkey's, over the arm's pairs."""
    by_arm: dict[str, ProbeAnswer] = {}
    for stage in plan.stages:
        every = _parts(plan, stage, lambda r: r["probe"])
        for name, by_seed in _alike({n: rows for n, rows in every.items() if n not in by_arm}).items():
            # the first probe of the file is the one that may break ties
            by_arm[name] = _mean([{**probe, "seeds": list(by_seed)} for probe in by_seed.values()], ProbeAnswer)
            theirs = every.get(plan.study.arm(name).on, {}) if name in paired else {}
            common = [seed for seed in paired.get(name, ()) if seed in every[name] and seed in theirs]
            read = [(every[name][seed].get("passkey"), theirs[seed].get("passkey")) for seed in common]
            maps = [(a, b) for a, b in read if a and b]
            if maps and len(maps) == len(read) and len({repr(_axes(one)) for pair in maps for one in pair}) == 1:
                score = _mean([_minus(a["score"], b["score"]) for a, b in maps], Map)
                lengths, depths = _axes(maps[0][0])
                by_arm[name]["difference"] = {"lengths": lengths, "depths": depths, "score": score, "pairs": common}
    return by_arm


def _axes(passkey: Passkey) -> tuple[list[float], list[float]]:
    return passkey["lengths"], passkey["depths"]


def _minus(a: Map, b: Map) -> Map:
    """Return a - b; None where either is no number."""
    return [
        [None if x is None or y is None else x - y for x, y in zip(mine, theirs, strict=True)]
        for mine, theirs in zip(a, b, strict=True)
    ]


def _parts(plan: Plan, stage: str, part: Callable[[Result], T | None]) -> dict[str, dict[int, T]]:
    """Take one part of every result at a stage: arm -> seed -> what `part` takes of it, where that is anything."""
    by_arm: dict[str, dict[int, T]] = {}
    for name in plan.study.with_baseline:
        for seed in plan.seeds:
            result = plan.store.scored(plan.runs[name, seed].score_keys[stage])
            if result and (read := part(result)):
                by_arm.setdefault(name, {})[seed] = read
    return by_arm


def _alike(every: dict[str, dict[int, T]]) -> dict[str, dict[int, T]]:
    """Return the same seeds of every arm; each arm's own where they have none in common."""
    common = set.intersection(*map(set, every.values())) if every else set()
    return {name: {s: by[s] for s in by if s in common or not common} for name, by in every.items()}


def _mean(rows: Sequence[object], form: type[T]) -> T:
    """Average rows of a form, which the mean has again."""
    mean = mean_tree(rows)
    assert fits(mean, form)
    return mean


def mean_tree(rows: Sequence[object]) -> object:
    """Average numbers over equal-shaped JSON trees; anything else is taken from the first."""
    first = rows[0]
    if isinstance(first, dict):
        return {k: mean_tree([row[k] for row in rows if isinstance(row, dict)]) for k in first}
    if isinstance(first, list):
        return [mean_tree(column) for column in zip(*(row for row in rows if isinstance(row, list)))]
    if isinstance(first, float):
        known = [v for v in rows if isinstance(v, int | float)]
        return sum(known) / len(known)
    return first
