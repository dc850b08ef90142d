"""What an arm costs, what it costs beside its reference, and whether it stays within the study's limits."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from ablab.records.answer import ArtifactAnswer
from ablab.records.cost import Clocks, Cost, CostAgainst, KnownSizes, Margin, Range, Size, Spent, StageCost, Times
from ablab.records.result import Result
from ablab.records.run import clocked
from ablab.records.settings import StageSettings
from ablab.verdict.spending import t_isf

if TYPE_CHECKING:
    from ablab.runs.plan import Plan


NOISE = 0.05  # two times within this share of each other count as one
CLOCKS = 3  # pairs of runs below which no clock tells a cost from a busy machine
SURE = 0.95  # confidence of the interval that "free" is read off
LIMITS = {
    "bytes": "bytes of the artifact",
    "parameters": "parameters",
    "seconds": "seconds of training",
    "stage_seconds": "seconds of the slowest stage",
    "memory": "bytes of memory at the peak",
}


def of(plan: Plan, name: str, seeds: Sequence[int] | None = None) -> Cost:
    """Return what an arm costs: its sizes, measured speed (median over its runs) and artifact bytes.

    seeds: those whose runs are measured (all of them); limits hold for every run there is. Of a program that is not ours
    nothing but time is known.
    """
    peak = max((p for _, p in _peaks(plan, name)), default=None)
    known: KnownSizes = {**(UNKNOWN if plan.study.runner is not None else sizes(plan, name))}
    return {**known, "peak_bytes": peak, **spent(plan, name, seeds), "limits": margins(plan, name)}


def sizes(plan: Plan, name: str) -> Size:
    """Count parameters, arithmetic and cache of an arm's model.

    cache_bytes_per_token: what decoding keeps of a row's first token, all layers together, in `cache_precision`;
    cache_bytes_at_seq_len: of a row of seq_len tokens, of which windowed layers keep a window.
    """
    return {**plan.counted("sizes", name, lambda: _sizes(plan, name))}


def _sizes(plan: Plan, name: str) -> Size:
    from ablab.model.size import active_parameters, cache_size, flops_per_token, parameters

    model, precision, decoder = plan.study.arm(name).settings["model"], plan.where.precision, plan.decoder(name)
    counts, length, itemsize = parameters(decoder), model["seq_len"], {"bf16": 2, "fp32": 4, "fp64": 8}[precision]
    return {
        "parameters": counts["total"],
        "active_parameters": active_parameters(decoder),
        "body_parameters": counts["body"],
        "embedding_parameters": counts["embedding"],
        "flops_per_token": flops_per_token(decoder, model),
        "cache_bytes_per_token": cache_size(decoder, 1, itemsize=itemsize)["bytes"],
        "cache_bytes_at_seq_len": cache_size(decoder, length, itemsize=itemsize)["bytes"],
        "cache_precision": precision,
    }


UNKNOWN: KnownSizes = {
    "parameters": None, "active_parameters": None, "body_parameters": None, "embedding_parameters": None,
    "flops_per_token": None, "cache_bytes_per_token": None, "cache_bytes_at_seq_len": None, "cache_precision": None,
}  # fmt: skip


def spent(plan: Plan, name: str, seeds: Sequence[int] | None = None) -> Spent:
    """Return what the arm's finished runs at these seeds (all of them) took: medians of speed, time and bytes."""
    runs = [plan.runs[name, seed] for seed in plan.seeds if seeds is None or seed in seeds]
    done = [d for run in runs if (d := plan.store.trained(run.train_key)) and d["status"] == "done"]
    speed, batch = (
        median([d["tokens_per_second"] for d in done]),
        runs[0].settings["budget"]["batch_tokens"] if runs else 0,
    )
    each = {stage: _results(plan, name, stage, seeds) for stage in plan.stages}
    clocks = _clocks(plan, name, seeds)
    return {
        "tokens_per_second": speed,
        "step_ms": 1000 * batch / speed if speed else None,
        "train_seconds": median([d["seconds"] for d in done if clocked(d)]),
        "bytes": None if plan.study.runner else median([r["bytes"] for r in each[plan.study.decision["stage"]]]),
        "stage_seconds": {stage: median([r["seconds"] for r in rows]) for stage, rows in each.items()},
        "stages": stages(plan, name, seeds),
        "clocks": clocks,
        "spread": {
            "train_seconds": spread(clocks["train_seconds"]),
            "tokens_per_second": spread(clocks["tokens_per_second"]),
        },
    }


def stages(plan: Plan, name: str, seeds: Sequence[int] | None = None) -> dict[str, StageCost]:
    """Return medians over the arm's finished seeds, per stage. root_pack is 0 where a stage packs its own bytes."""
    seen = "stages" if seeds is None else f"stages {[*seeds]}"
    return plan.seen(seen, name, lambda: _stages(plan, name, seeds))


def _stages(plan: Plan, name: str, seeds: Sequence[int] | None) -> dict[str, StageCost]:
    from ablab.artifact import blob as packing

    costs: dict[str, StageCost] = {}
    if plan.study.runner is not None:  # of a program nothing is packed or evaluated here
        return costs
    settings = plan.runs[name, plan.seeds[0]].settings
    for stage in plan.stages:
        rows = _results(plan, name, stage, seeds)
        if rows:
            root = packing.root(settings, stage)
            costs[stage] = {
                "seconds": median([r["seconds"] for r in rows]),
                "peak_bytes": median([r.get("peak_bytes") for r in rows]),
                "bytes": median([r["bytes"] for r in rows]),
                "model_bytes": median([r.get("model_bytes") for r in rows]),
                "code_bytes": median([r.get("code_bytes") for r in rows]),
                "pack": _timed(rows, "pack"),
                "check": _timed(rows, "check"),
                "evaluate": _timed(rows, "evaluate"),
                "spread": spread({str(i): r["seconds"] for i, r in enumerate(rows)}),
                "root_pack": 0.0 if root == stage else _timed(_results(plan, name, root, seeds), "pack"),
            }
    return costs


def _timed(rows: Sequence[Result], part: Literal["pack", "check", "evaluate"]) -> float | None:
    """Return the median seconds of a part of a stage."""
    return median([r.get("timing", {}).get(part) for r in rows])


def _clocks(plan: Plan, name: str, seeds: Sequence[int] | None) -> Clocks:
    """Return every measured time of an arm by seed (as text): of training, and per stage with the packing below it."""
    from ablab.artifact import blob as packing

    chosen = [seed for seed in plan.seeds if seeds is None or seed in seeds]
    trained = {str(seed): plan.store.trained(plan.runs[name, seed].train_key) for seed in chosen}
    done = {seed: d for seed, d in trained.items() if d and d["status"] == "done" and clocked(d)}
    settings = plan.runs[name, plan.seeds[0]].settings
    stage_seconds: dict[str, dict[str, float]] = {}
    for stage in plan.stages if plan.study.runner is None else ():
        for seed in chosen:
            took = _whole_time(plan, name, seed, stage, packing.root(settings, stage))
            if took is not None:
                stage_seconds.setdefault(stage, {})[str(seed)] = took
    return {
        "train_seconds": {seed: d["seconds"] for seed, d in done.items()},
        "tokens_per_second": {seed: d["tokens_per_second"] for seed, d in done.items()},
        "stage_seconds": stage_seconds,
    }


def _whole_time(plan: Plan, name: str, seed: int, stage: str, root: str) -> float | None:
    """Return `_stage_time` of one run, and the packing of the stage below it, which loading the bytes does not show."""
    keys = plan.runs[name, seed].score_keys
    result, below = plan.store.scored(keys[stage]), plan.store.scored(keys[root]) if root != stage else None
    if result is None:
        return None
    timing = result.get("timing", {})
    own = _stage_time(result["seconds"], timing.get("pack"), timing.get("evaluate"))
    if root == stage or "timing" not in result:  # a result that does not tell its parts apart
        return own
    before = None if below is None else below.get("timing", {}).get("pack")
    return None if own is None or before is None else own + before


def spread(values: Mapping[str, float | None]) -> Range | None:
    """Return the least and the most of measured times, and how many there are; None of none."""
    known = [v for v in values.values() if v is not None]
    return {"low": min(known), "high": max(known), "runs": len(known)} if known else None


def times(above: Mapping[str, float | None], below: Mapping[str, float | None]) -> Times | None:
    """Compare an arm's times with another's, over the seeds that both have; None without one.

    sure_low and sure_high: a t interval of the typical ratio (of logs), from CLOCKS pairs on.
    """
    pairs = [(above[seed], below[seed]) for seed in above if seed in below]
    ratios = [a / b for a, b in pairs if a and b]
    if not ratios:
        return None
    over_seeds: Times = {
        "median": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "pairs": len(ratios),
        "sure_low": None,
        "sure_high": None,
    }
    if len(ratios) < CLOCKS:
        return over_seeds
    logs = [math.log(ratio) for ratio in ratios]
    half = t_isf((1 - SURE) / 2, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    middle = statistics.fmean(logs)
    return {**over_seeds, "sure_low": math.exp(middle - half), "sure_high": math.exp(middle + half)}


# Of arms that train nothing of their own: no clock is needed for it, so it has no pairs.
SAME: Times = {"median": 1.0, "low": 1.0, "high": 1.0, "pairs": 0, "sure_low": 1.0, "sure_high": 1.0}


def against(mine: Spent, theirs: Spent, stage: str, *, timed: bool, same_weights: bool = False) -> CostAgainst:
    """Compare an arm's cost with its reference's: bytes as a difference, times and memory as ratios, and whether it is free.

    train_time and stage_time are medians over pairs of runs at one seed, train_spread and stage_spread all of `times`.
    free: no more bytes at the deciding stage `stage`, and neither training nor that stage takes longer by more than NOISE,
    both at the whole interval of the typical ratio; false where there are more bytes, or one of the intervals lies beyond
    NOISE; null where the clocks do not tell, or something was not measured. A stage's time has the packing of the stage
    that it stands on. timed: the budget is wall clock, so speed stands for training time. same_weights: it trains nothing of
    its own.
    """
    ours, other = mine["clocks"], theirs["clocks"]
    training: Times | None = SAME
    if not same_weights and timed:
        training = times(other["tokens_per_second"], ours["tokens_per_second"])
    elif not same_weights:
        training = times(ours["train_seconds"], other["train_seconds"])
    evaluation = times(ours["stage_seconds"].get(stage, {}), other["stage_seconds"].get(stage, {}))
    peaks = [cost["stages"][stage]["peak_bytes"] if stage in cost["stages"] else None for cost in (mine, theirs)]
    size, there = mine["bytes"], theirs["bytes"]
    more = None if size is None or there is None else size - there
    return {
        "bytes": more,
        "train_time": training["median"] if training else None,
        "stage_time": evaluation["median"] if evaluation else None,
        "train_spread": training,
        "stage_spread": evaluation,
        "peak_bytes": _over(*peaks),
        "free": _free(more, training, evaluation),
    }


def _free(more: float | None, *took: Times | None) -> bool | None:
    """Tell whether nothing is paid, where bytes and clocks tell."""
    if more is None or None in took:
        return None
    lows, highs = [t["sure_low"] for t in took if t], [t["sure_high"] for t in took if t]
    if more > 0 or any(low is not None and low > 1 + NOISE for low in lows):
        return False
    return True if all(high is not None and high <= 1 + NOISE for high in highs) else None


def _stage_time(seconds: float | None, pack: float | None, evaluate: float | None) -> float | None:
    """Return the time of packing and evaluating, without the checks' own; results that do not tell them apart: all of it."""
    return seconds if pack is None or evaluate is None else pack + evaluate


def _over(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def margins(plan: Plan, name: str) -> dict[str, Margin]:
    """Compare an arm with every limit of the study, by its name.

    Bytes and memory are those of the largest seed, each of which must fit; times are medians. Bytes: the largest artifact
    among the stages that compress (a compressor other than keep, or a codec other than raw); where none does, the deciding
    stage's.
    """
    return plan.seen("margins", name, lambda: _margins(plan, name))


def _margins(plan: Plan, name: str) -> dict[str, Margin]:
    asked = plan.study.limits
    measured = {what: _measured(plan, name, what) for what in asked}
    return {
        what: {"limit": asked[what], "value": value, "margin": asked[what] - value}
        for what, value in measured.items()
        if value is not None
    }


def _measured(plan: Plan, name: str, what: str) -> float | None:
    first = plan.runs[name, plan.seeds[0]]
    if what == "parameters":
        from ablab.model.size import parameters

        return parameters(plan.decoder(name))["total"]
    if what == "seconds":
        done = [plan.store.trained(plan.runs[name, s].train_key) for s in plan.seeds]
        return median([d["seconds"] for d in done if d and d["status"] == "done"])
    if what == "bytes":
        asked = [stage for stage in plan.stages if _compresses(first.settings["stage"][stage])]
        held = asked or [plan.study.decision["stage"]]
        return max((r["bytes"] for stage in held for r in _results(plan, name, stage)), default=None)
    if what == "memory":
        return max((peak for _, peak in _peaks(plan, name)), default=None)
    if what != "stage_seconds":
        raise ValueError(f"nothing measures limits.{what}; give it a branch here")
    each = [_stage_time(one["seconds"], one["pack"], one["evaluate"]) for one in stages(plan, name).values()]
    return max((t for t in each if t is not None), default=None)


def _compresses(chosen: StageSettings) -> bool:
    """Tell whether a stage makes an artifact that is smaller than the weights: it packs, and not by keeping them raw."""
    if chosen["after"] is not None:
        return False
    return bool(chosen["compress"]["name"] != "keep" or chosen["codec"]["name"] != "raw")


def over_limits(plan: Plan, name: str, held: Mapping[str, Margin] | None = None) -> str:
    """Say by how much an arm is beyond the study's limits; empty where it is within all of them. held: its `margins`."""
    return "; ".join(
        f"{LIMITS[what]} {_exact(row['value'])} is {_exact(-row['margin'])} over the limit of {_exact(row['limit'])}"
        + (_between(plan, name) if what == "seconds" else "")
        for what, row in (margins(plan, name) if held is None else held).items()
        if row["margin"] < 0
    )


def _between(plan: Plan, name: str) -> str:
    """Say how far the clocks of an arm's trainings differ: a median of few runs on a busy machine bars nobody in silence."""
    of = spread(_clocks(plan, name, None)["train_seconds"])
    if of is None or of["low"] == of["high"]:
        return ""
    return f" ({_exact(of['low'])} to {_exact(of['high'])} over {of['runs']} runs)"


def _exact(value: float) -> str:
    """Write whole numbers whole; others to three digits more than nothing."""
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:,.3g}"


def artifacts(plan: Plan, name: str) -> dict[str, ArtifactAnswer]:
    """Return per stage that packs (none based on another) the artifact's account, bytes over the arm's finished seeds.

    Schemes, prediction, rotation and correction are those of the first finished seed; nothing for weights kept as they are.
    """
    accounts: dict[str, ArtifactAnswer] = {}
    for stage, chosen in plan.runs[name, plan.seeds[0]].settings["stage"].items():
        rows = [r for r in _results(plan, name, stage) if r["artifact"]]
        if rows and chosen["after"] is None and chosen["compress"]["name"] != "keep":
            sizes = [r["bytes"] for r in rows]
            accounts[stage] = {
                **rows[0]["artifact"],
                "bytes": median(sizes),
                "least": min(sizes),
                "most": max(sizes),
                "model_bytes": median([r.get("model_bytes") for r in rows]),
                "code_bytes": median([r.get("code_bytes") for r in rows]),
                "seeds": len(rows),
                "ratio": median([r["artifact"].get("ratio") for r in rows]),
            }
    return accounts


def _results(plan: Plan, name: str, stage: str, seeds: Sequence[int] | None = None) -> list[Result]:
    chosen = plan.seeds if seeds is None else [seed for seed in plan.seeds if seed in seeds]
    return [r for s in chosen if (r := plan.store.scored(plan.runs[name, s].score_keys[stage]))]


def _peaks(plan: Plan, name: str) -> list[tuple[str, float]]:
    return plan.seen("peaks", name, lambda: _peaks_of(plan, name))


def _peaks_of(plan: Plan, name: str) -> list[tuple[str, float]]:
    rows = [(stage, r.get("peak_bytes")) for stage in plan.stages for r in _results(plan, name, stage)]
    return [(stage, peak) for stage, peak in rows if peak is not None]


def median(values: Sequence[float | None]) -> float | None:
    """Return the median of the numbers among `values`; None where there are none."""
    known = [v for v in values if v is not None]
    return statistics.median(known) if known else None
