"""The rules of parameter-golf (issue #1017 and the limits of the track), as far as finished runs saw them kept."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ablab.records.result import Result
from ablab.scoring.scores import Scores

if TYPE_CHECKING:
    from ablab.bridges.golf.entry import Entry
    from ablab.runs.plan import Plan

Measured = dict[str, dict[str, float | None]]  # rule -> what it is called -> number
BYTES, SECONDS = 16_000_000, 600.0
# What the checks of a stage measure of each rule; a rule of which one of these is missing was not looked at.
LOOKED_AT = {
    "C1_causal": ("causal", "documents", "replayed", "at"),
    "C2_normalised": ("scorer", "mass", "score"),
    "C3_score_before_update": ("replayed",),
    "C4_single_pass": ("replayed",),
}


def compliance(plan: Plan, one: Entry, decider: str) -> dict[str, bool | Measured]:
    """Map a rule to true only where its check ran at every scored stage and seed and saw nothing; numbers in `measured`."""
    rows = [result for of_seed in one.results.values() for result in of_seed.values()]
    held: dict[str, bool] = {}
    measured: Measured = {}
    for rule, keys in LOOKED_AT.items():
        checked = [row.get("checked") or {} for row in rows]
        ran = bool(rows) and all(key in one_check for one_check in checked for key in keys)
        broken = [
            violation for row in rows for violation in row["violations"] if re.search(rf"\b{rule[:2]}\b", violation)
        ]
        held[rule] = ran and not broken
        measured[rule] = {key: max((v for c in checked if (v := c.get(key)) is not None), default=None) for key in keys}
        measured[rule] |= {"stages_checked": sum(all(key in c for key in keys) for c in checked), "of": len(rows)}
    measured["C3_score_before_update"]["updates"] = sum(row.get("extra", {}).get("updates", 0) for row in rows)
    measured["C4_single_pass"] |= {
        "violations": sum("C4" in violation for row in rows for violation in row["violations"])
    }
    held["bytes_equal_corpus"], measured["bytes_equal_corpus"] = _bytes(plan, one, decider)
    sizes = [of_seed[decider]["bytes"] for of_seed in one.results.values()]
    held["artifact_under_16MB"] = max(sizes) <= BYTES
    measured["artifact_under_16MB"] = {"bytes": max(sizes), "limit": BYTES, "margin": BYTES - max(sizes)}
    times: dict[str, list[float | None]] = {
        "train_under_600s": [d["seconds"] if d["steps"] else None for d in one.done.values()],
        "eval_under_600s": [evaluation_seconds(of_seed[decider]) for of_seed in one.results.values()],
    }
    for rule, seconds in times.items():
        known = [value for value in seconds if value is not None]
        held[rule] = len(known) == len(seconds) and max(known) <= SECONDS
        measured[rule] = {"seconds": max(known, default=None), "limit": SECONDS}
    return {**held, "measured": measured}


def evaluation_seconds(result: Result) -> float:
    """Return the seconds of the evaluation alone, without packing and checks, where the result tells them apart."""
    seconds = (result.get("timing") or {}).get("evaluate")
    return float(result["seconds"] if seconds is None else seconds)


def _bytes(plan: Plan, one: Entry, decider: str) -> tuple[bool, dict[str, float | None]]:
    """Tell whether the deciding stage scored every token and byte of the held-out text, at every seed."""
    valid = plan.corpus(plan.runs[one.arm, plan.seeds[0]]).valid
    wanted = (int(valid.n_targets), int(valid.n_scored_bytes))
    totals = []
    for seed, results in one.results.items():
        scores = Scores.load(plan.store.score(plan.runs[one.arm, seed].score_keys[decider]), results[decider])
        totals.append((int(scores.tokens.sum()), int(scores.bytes.sum())))
    broken = [g for r in one.results.values() for g in r[decider]["violations"] if re.match(r"(tokens|bytes)\b", g)]
    worst = next((total for total in totals if total != wanted), wanted)
    numbers: dict[str, float | None] = {
        "tokens": worst[0],
        "bytes": worst[1],
        "corpus_tokens": wanted[0],
        "corpus_bytes": wanted[1],
    }
    return bool(totals) and worst == wanted and not broken, numbers
