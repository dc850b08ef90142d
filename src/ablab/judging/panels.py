"""What the report draws beside the words: levels, losses by position, probes, artifacts. Like is put beside like.

Seeds differ by more than arms do. So a level is a mean over the seeds at which every arm has a result, and a difference is
taken seed by seed over the pairs from which the arm's own word was read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ablab.judging import cost
from ablab.runs.plan import Plan

Pairs = Mapping[str, Sequence[int]]  # arm -> the seeds of its pairs
BySeed = dict[str, dict[int, Any]]  # arm -> seed -> one part of a result


def pairs(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Per arm the seeds that its word was read from; before its first look those at which it and its reference are done."""
    return {row["name"]: list(row["pairs"] or _both(plan, row["name"], row["on"])) for row in rows if row["on"]}


def _both(plan: Plan, name: str, on: str) -> list[int]:
    return [seed for seed in plan.seeds if _done(plan, name, seed) and _done(plan, on, seed)]


def _done(plan: Plan, name: str, seed: int) -> bool:
    run = plan.runs[name, seed]
    done = plan.store.trained(run.train_key)
    return bool(done and done["status"] == "done" and all(map(plan.store.scored, run.score_keys.values())))


def shared(plan: Plan) -> list[int]:
    """The seeds at which every arm that has finished any run has finished one; all seeds where the arms share none."""
    done = {name: {s for s in plan.seeds if _done(plan, name, s)} for name in plan.study.with_baseline}
    common = set.intersection(*(seeds or set(plan.seeds) for seeds in done.values()))
    return [seed for seed in plan.seeds if seed in common] or plan.seeds


def levels(plan: Plan) -> dict[str, dict[str, float]]:
    """Every metric of each arm at the deciding stage, a mean over the seeds that all arms share."""
    found: dict[str, dict[str, float]] = {}
    for name, by_seed in _alike(_parts(plan, plan.study.decision["stage"], "metrics")).items():
        rows = list(by_seed.values())
        known = [m for m in rows[0] if all(row.get(m) is not None for row in rows)]
        if known:
            found[name] = {metric: sum(row[metric] for row in rows) / len(rows) for metric in known}
    return found


def bands(plan: Plan, paired: Pairs) -> dict[str, Any]:
    """By position band, per stage and arm: nats per token (ratio of sums) and tokens scored per seed, over shared seeds.

    `difference` is that of nats per token to the reference's, over the arm's pairs (`pairs`) and in the bands that both
    have: rows of other lengths share all but their last ones. null where a band is not the reference's.
    """
    found: dict[str, Any] = {}
    for stage in plan.stages:
        every = _parts(plan, stage, "bands")
        for name, by_seed in _alike(every).items():
            rows = list(by_seed.values())
            tokens = [sum(column) / len(rows) for column in zip(*(row["tokens"] for row in rows))]
            here = {"edges": rows[0]["edges"], "nats_per_token": _rates(rows), "tokens": tokens, "seeds": list(by_seed)}
            found.setdefault(stage, {})[name] = here
        for name, seeds in paired.items():
            mine, theirs = every.get(name, {}), every.get(plan.study.arm(name).on, {})
            common = [seed for seed in seeds if seed in mine and seed in theirs]
            if common and name in found.get(stage, {}):
                gaps = _gaps([mine[seed] for seed in common], [theirs[seed] for seed in common])
                found[stage][name] |= {"difference": gaps, "pairs": common}
    return found


def _rates(rows: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """Nats per token of every band, all rows together; None where a band holds no token or a number that is none."""
    nats = [None if None in column else sum(column) for column in zip(*(row["nats"] for row in rows))]
    tokens = [sum(column) for column in zip(*(row["tokens"] for row in rows))]
    return [n / t if t and n is not None else None for n, t in zip(nats, tokens)]


def _gaps(mine: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> list[float | None]:
    there = dict(zip(zip(theirs[0]["edges"], theirs[0]["edges"][1:]), _rates(theirs)))
    own = zip(zip(mine[0]["edges"], mine[0]["edges"][1:]), _rates(mine))
    return [a - b if a is not None and (b := there.get(band)) is not None else None for band, a in own]


def positions(plan: Plan) -> dict[str, Any]:
    """How many training tokens stood at which positions of their rows, per arm: means over finished trainings."""
    found: dict[str, Any] = {}
    for name in plan.study.with_baseline:
        done = [plan.store.trained(plan.runs[name, seed].train_key) for seed in plan.seeds]
        rows = [row for one in done if one and one["status"] == "done" and (row := one.get("positions"))]
        if rows:
            trained = [sum(column) / len(rows) for column in zip(*(row["tokens"] for row in rows))]
            found[name] = {"edges": rows[0]["edges"], "trained": trained}
    return found


def validated(plan: Plan) -> dict[str, Any]:
    """What text every point of a trajectory scores, per arm: documents, tokens, bytes, and whether it is all there is."""
    found: dict[str, Any] = {}
    for name in plan.study.with_baseline:
        done = (plan.store.trained(plan.runs[name, seed].train_key) for seed in plan.seeds)
        if (first := next((one["validated"] for one in done if one and one.get("validated")), None)) is not None:
            found[name] = first
    return found


def artifacts(plan: Plan) -> dict[str, Any]:
    """The account of every packed artifact: stage -> arm -> bytes, schemes, prediction, rotation, correction."""
    found: dict[str, Any] = {}
    for name in plan.study.with_baseline:
        for stage, account in cost.artifacts(plan, name).items():
            found.setdefault(stage, {})[name] = account
    return found


def needles(plan: Plan, paired: Pairs) -> dict[str, Any]:
    """The probe's grids per arm over the seeds that all arms share; `difference`: of the passkey's, over the arm's pairs."""
    found: dict[str, Any] = {}
    for stage in plan.stages:
        every = _parts(plan, stage, "probe")
        for name, by_seed in _alike({n: rows for n, rows in every.items() if n not in found}).items():
            # the first probe of the file is the one that may break ties
            found[name] = {**mean_tree(list(by_seed.values())), "seeds": list(by_seed)}
            theirs = every.get(plan.study.arm(name).on, {}) if name in paired else {}
            common = [seed for seed in paired.get(name, ()) if seed in every[name] and seed in theirs]
            maps = [(every[name][seed].get("passkey", {}), theirs[seed].get("passkey", {})) for seed in common]
            if maps and all(_axes(a) == _axes(b) == _axes(maps[0][0]) != {} for a, b in maps):
                score = mean_tree([_minus(a["score"], b["score"]) for a, b in maps])
                found[name]["difference"] = {**_axes(maps[0][0]), "score": score, "pairs": common}
    return found


def _axes(passkey: Mapping[str, Any]) -> dict[str, Any]:
    return {axis: passkey[axis] for axis in ("lengths", "depths") if axis in passkey}


def _minus(a: Any, b: Any) -> Any:
    """a - b over equal nests of lists; None where either is no number."""
    if isinstance(a, list) and isinstance(b, list):
        return [_minus(x, y) for x, y in zip(a, b, strict=True)]
    return None if a is None or b is None else a - b


def _parts(plan: Plan, stage: str, part: Literal["metrics", "bands", "probe"]) -> BySeed:
    """One part of every result at a stage."""
    found: BySeed = {}
    for name in plan.study.with_baseline:
        for seed in plan.seeds:
            result = plan.store.scored(plan.runs[name, seed].score_keys[stage])
            if result and result.get(part):
                found.setdefault(name, {})[seed] = result[part]
    return found


def _alike(every: BySeed) -> BySeed:
    """The same seeds of every arm; each arm's own where they have none in common."""
    common = set.intersection(*map(set, every.values())) if every else set()
    return {name: {s: by[s] for s in by if s in common or not common} for name, by in every.items()}


def mean_tree(rows: list[Any]) -> Any:
    """Mean of numbers over equal-shaped JSON trees; anything else is taken from the first."""
    first = rows[0]
    if isinstance(first, dict):
        return {k: mean_tree([row[k] for row in rows]) for k in first}
    if isinstance(first, list):
        return [mean_tree(list(column)) for column in zip(*rows)]
    if isinstance(first, float):
        known = [v for v in rows if isinstance(v, int | float)]
        return sum(known) / len(known)
    return first
