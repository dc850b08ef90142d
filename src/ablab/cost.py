"""What an arm costs, what it costs beside its reference, and whether it stays within the study's limits."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablab.plan import Plan


NOISE = 0.05  # two times within this share of each other are one time: the clock of a shared machine says no more
LIMITS = {
    "bytes": "bytes of the artifact",
    "parameters": "parameters",
    "seconds": "seconds of training",
    "stage_seconds": "seconds of the slowest stage",
    "memory": "bytes of memory at the peak",
}


def of(plan: Plan, name: str, seeds: Sequence[int] | None = None) -> dict[str, Any]:
    """What an arm costs: parameters, arithmetic, cache, measured speed (median over its runs) and artifact bytes.

    seeds: those whose runs are measured (all of them); limits hold for every run there is.
    cache_bytes_per_token: what decoding keeps of a row's first token, all layers together, in `cache_precision`;
    cache_bytes_at_seq_len: of a row of seq_len tokens, of which windowed layers keep a window.
    """
    from ablab.cache import cache_size
    from ablab.model import skeleton
    from ablab.size import active_parameters, flops_per_token, parameters

    first = plan.runs[name, plan.seeds[0]]
    vocab = plan.corpus(first).vocab_size
    model = first.settings["model"]
    decoder, precision = skeleton(model, vocab_size=vocab), plan.where.precision
    sizes, length, itemsize = parameters(decoder), model["seq_len"], {"bf16": 2, "fp32": 4, "fp64": 8}[precision]
    return {
        "parameters": sizes["total"],
        "active_parameters": active_parameters(decoder),
        "body_parameters": sizes["body"],
        "embedding_parameters": sizes["embedding"],
        "flops_per_token": flops_per_token(model, vocab),
        "cache_bytes_per_token": cache_size(decoder, 1, itemsize=itemsize)["bytes"],
        "cache_bytes_at_seq_len": cache_size(decoder, length, itemsize=itemsize)["bytes"],
        "cache_precision": precision,
        "peak_bytes": max((p for _, p in _peaks(plan, name)), default=None),
        **spent(plan, name, seeds),
        "limits": margins(plan, name),
    }


def spent(plan: Plan, name: str, seeds: Sequence[int] | None = None) -> dict[str, Any]:
    """What the arm's finished runs at these seeds (all of them) took: medians of speed, time and bytes."""
    runs = [plan.runs[name, seed] for seed in plan.seeds if seeds is None or seed in seeds]
    done = [d for run in runs if (d := plan.store.trained(run.train_key)) and d["status"] == "done"]
    speed, batch = (
        median([d["tokens_per_second"] for d in done]),
        runs[0].settings["budget"]["batch_tokens"] if runs else 0,
    )
    each = {stage: _results(plan, name, stage, seeds) for stage in plan.stages}
    return {
        "tokens_per_second": speed,
        "step_ms": 1000 * batch / speed if speed else None,
        "train_seconds": median([d["seconds"] for d in done if d["steps"]]),  # no steps: trained elsewhere
        "bytes": median([r["bytes"] for r in each[plan.study.decision["stage"]]]),
        "stage_seconds": {stage: median([r["seconds"] for r in rows]) for stage, rows in each.items()},
        "stages": stages(plan, name, seeds),
    }


def stages(plan: Plan, name: str, seeds: Sequence[int] | None = None) -> dict[str, dict[str, float | None]]:
    """Per stage, medians over the arm's finished seeds: seconds and their parts, peak memory, and the artifact's bytes.

    root_pack: seconds of packing at the stage whose bytes this one evaluates (`after`); 0 where it packs its own.
    """
    from ablab import packing

    found, settings = {}, plan.runs[name, plan.seeds[0]].settings
    for stage in plan.stages:
        rows = _results(plan, name, stage, seeds)
        if rows:
            timing = {
                part: median([r.get("timing", {}).get(part) for r in rows]) for part in ("pack", "check", "evaluate")
            }
            kept = ("seconds", "peak_bytes", "bytes", "model_bytes", "code_bytes")
            found[stage] = {**{key: median([r.get(key) for r in rows]) for key in kept}, **timing}
            root = packing.root(settings, stage)
            before = [r.get("timing", {}).get("pack") for r in _results(plan, name, root, seeds)]
            found[stage]["root_pack"] = 0.0 if root == stage else median(before)
    return found


def against(
    mine: Mapping[str, Any], theirs: Mapping[str, Any], stage: str, *, timed: bool, same_weights: bool = False
) -> dict[str, Any]:
    """What an arm costs beside its reference: bytes as a difference, times and memory as ratios, and whether it is free.

    free: no more bytes at the deciding stage `stage`, and neither training nor that stage takes longer by more than NOISE;
    null where one of the three was not measured. The stage's time has the packing of the stage that it stands on.
    timed: the budget is wall clock, so speed stands for training time.
    same_weights: it trains nothing of its own.
    """
    training = _ratio(theirs, mine, "tokens_per_second") if timed else _ratio(mine, theirs, "train_seconds")
    training = 1.0 if same_weights else training
    here, there = (cost.get("stages", {}).get(stage, {}) for cost in (mine, theirs))
    evaluation = _over(_whole_time(here), _whole_time(there))
    more = None if None in (mine["bytes"], theirs["bytes"]) else mine["bytes"] - theirs["bytes"]
    free = None
    if more is not None and training is not None and evaluation is not None:
        free = bool(more <= 0 and max(training, evaluation) <= 1 + NOISE)
    return {
        "bytes": more,
        "train_time": training,
        "stage_time": evaluation,
        "peak_bytes": _ratio(here, there, "peak_bytes"),
        "free": free,
    }


def _stage_time(stage: Mapping[str, Any]) -> float | None:
    """Packing and evaluating; the gates' own time is no cost of the arm. Results that do not tell them apart: all of it."""
    pack, evaluate = stage.get("pack"), stage.get("evaluate")
    return stage.get("seconds") if pack is None or evaluate is None else pack + evaluate


def _whole_time(stage: Mapping[str, Any]) -> float | None:
    """`_stage_time` and the packing of the stage that it stands on, which loading the packed bytes does not show."""
    own, before = _stage_time(stage), stage.get("root_pack", 0.0)
    if stage.get("pack") is None:  # a result that does not tell them apart
        return own
    return None if own is None or before is None else own + before


def _ratio(above: Mapping[str, Any], below: Mapping[str, Any], key: str) -> float | None:
    return _over(above.get(key), below.get(key))


def _over(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def margins(plan: Plan, name: str) -> dict[str, dict[str, float]]:
    """Every limit of the study that can be held against an arm: {what: {limit, value, margin}}, margin below 0 is over.

    Bytes and memory are those of the largest seed, each of which must fit; times are medians. Bytes: the largest artifact
    among the stages that compress (a compressor other than keep, or a codec other than raw); where none does, the deciding
    stage's.
    """
    asked = {what: limit for what, limit in plan.study.limits.items() if limit is not None}
    measured = {what: _measured(plan, name, what) for what in asked}
    return {
        what: {"limit": asked[what], "value": value, "margin": asked[what] - value}
        for what, value in measured.items()
        if value is not None
    }


def _measured(plan: Plan, name: str, what: str) -> float | None:
    first = plan.runs[name, plan.seeds[0]]
    if what == "parameters":
        from ablab.model import skeleton
        from ablab.size import parameters

        return parameters(skeleton(first.settings["model"], vocab_size=plan.corpus(first).vocab_size))["total"]
    if what == "seconds":
        done = [plan.store.trained(plan.runs[name, s].train_key) for s in plan.seeds]
        return median([d["seconds"] for d in done if d and d["status"] == "done"])
    if what == "bytes":
        asked = [stage for stage in plan.stages if _compresses(first.settings["stage"][stage])]
        held = asked or [plan.study.decision["stage"]]
        return max((r["bytes"] for stage in held for r in _results(plan, name, stage)), default=None)
    if what == "memory":
        return max((peak for _, peak in _peaks(plan, name)), default=None)
    return max((t for t in map(_stage_time, stages(plan, name).values()) if t is not None), default=None)


def _compresses(chosen: Mapping[str, Any]) -> bool:
    """Whether a stage makes an artifact that is smaller than the weights: it packs, and not by keeping them raw."""
    if chosen["after"] is not None:
        return False
    return bool(chosen["compress"]["name"] != "keep" or chosen["codec"]["name"] != "raw")


def over_limits(plan: Plan, name: str) -> str:
    """By how much an arm is beyond the study's limits, in words; empty where it is within all of them."""
    return "; ".join(
        f"{LIMITS[what]} {_exact(row['value'])} is {_exact(-row['margin'])} over the limit of {_exact(row['limit'])}"
        for what, row in margins(plan, name).items()
        if row["margin"] < 0
    )


def _exact(value: float) -> str:
    """Whole numbers whole; others to three digits more than nothing."""
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:,.3g}"


def artifacts(plan: Plan, name: str) -> dict[str, dict[str, Any]]:
    """Per stage that packs (none that stands on another): the artifact's account, bytes over the arm's finished seeds.

    Schemes, prediction, rotation and correction are those of the first finished seed; nothing for weights kept as they are.
    """
    found = {}
    for stage, chosen in plan.runs[name, plan.seeds[0]].settings["stage"].items():
        rows = [r for r in _results(plan, name, stage) if r.get("artifact")]
        if rows and chosen["after"] is None and (chosen["compress"] or {}).get("name") != "keep":
            sizes = [r["bytes"] for r in rows]
            parts = {key: median([r.get(key) for r in rows]) for key in ("model_bytes", "code_bytes")}
            ratios = [r["artifact"].get("ratio") for r in rows]
            over = {"bytes": median(sizes), "least": min(sizes), "most": max(sizes), **parts, "seeds": len(rows)}
            found[stage] = {**rows[0]["artifact"], **over, "ratio": median(ratios)}
    return found


def _results(plan: Plan, name: str, stage: str, seeds: Sequence[int] | None = None) -> list[dict[str, Any]]:
    chosen = plan.seeds if seeds is None else [seed for seed in plan.seeds if seed in seeds]
    return [r for s in chosen if (r := plan.store.scored(plan.runs[name, s].score_keys[stage]))]


def _peaks(plan: Plan, name: str) -> list[tuple[str, float]]:
    rows = [(stage, r.get("peak_bytes")) for stage in plan.stages for r in _results(plan, name, stage)]
    return [(stage, peak) for stage, peak in rows if peak is not None]


def median(values: list[Any]) -> float | None:
    """Median of the numbers among `values`; None where there are none."""
    known = [v for v in values if v is not None]
    return statistics.median(known) if known else None
