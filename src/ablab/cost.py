"""What an arm costs, and whether it stays within the study's limits."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablab.plan import Plan


def of(plan: Plan, name: str) -> dict[str, Any]:
    """What an arm costs: parameters, arithmetic, cache, measured speed (median over its runs) and artifact bytes.

    cache_bytes_per_token: what decoding keeps of a row's first token, all layers together, in `cache_precision`;
    cache_bytes_at_seq_len: of a row of seq_len tokens, of which windowed layers keep a window.
    """
    from ablab.cache import cache_size
    from ablab.model import skeleton
    from ablab.size import active_parameters, flops_per_token, parameters

    first = plan.runs[name, plan.seeds[0]]
    vocab = plan.corpus(first).vocab_size
    model = first.settings["model"]
    decider = plan.study.decision["stage"]
    decoder, precision = skeleton(model, vocab_size=vocab), plan.where.precision
    sizes, length, itemsize = parameters(decoder), model["seq_len"], {"bf16": 2, "fp32": 4, "fp64": 8}[precision]
    done = [d for s in plan.seeds if (d := plan.store.trained(plan.runs[name, s].train_key)) and d["status"] == "done"]
    rows = [r for s in plan.seeds if (r := plan.store.scored(plan.runs[name, s].score_keys[decider]))]
    speed = median([d["tokens_per_second"] for d in done])
    return {
        "parameters": sizes["total"],
        "active_parameters": active_parameters(decoder),
        "body_parameters": sizes["body"],
        "embedding_parameters": sizes["embedding"],
        "flops_per_token": flops_per_token(model, vocab),
        "cache_bytes_per_token": cache_size(decoder, 1, itemsize=itemsize)["bytes"],
        "cache_bytes_at_seq_len": cache_size(decoder, length, itemsize=itemsize)["bytes"],
        "cache_precision": precision,
        "tokens_per_second": speed,
        "step_ms": 1000 * first.settings["budget"]["batch_tokens"] / speed if speed else None,
        "train_seconds": median([d["seconds"] for d in done]),
        "bytes": median([r["bytes"] for r in rows]),
        "stage_seconds": {
            stage: median(
                [r["seconds"] for s in plan.seeds if (r := plan.store.scored(plan.runs[name, s].score_keys[stage]))]
            )
            for stage in first.score_keys
        },
    }


def over_limits(plan: Plan, name: str) -> str:
    """By how much an arm is beyond the study's limits, in words; empty where it is within all of them."""
    known = of(plan, name)
    measured = {"bytes": known["bytes"], "parameters": known["parameters"], "seconds": known["train_seconds"]}
    over = []
    for what, limit in plan.study.limits.items():
        value = measured[what]
        if limit is not None and value is not None and value > limit:
            over.append(f"{what} {value:,.0f} is {value - limit:,.0f} over the limit of {limit:,.0f}")
    return "; ".join(over)


def median(values: list[Any]) -> float | None:
    """Median of the numbers among `values`; None where there are none."""
    known = [v for v in values if v is not None]
    return statistics.median(known) if known else None
