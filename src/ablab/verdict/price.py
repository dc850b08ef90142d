"""How many more seeds an arm needs, and what they cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from ablab.verdict import planning
from ablab.verdict.evidence import Bank, Evidence
from ablab.verdict.family import Line
from ablab.verdict.rows import Price
from ablab.verdict.spending import looks, weights

FRESH_BLIND = 3  # seeds to ask for when nothing is known of the noise


def more_seeds(
    evidence: Evidence,
    *,
    d: float | None,
    s: float | None,
    n: int,
    m: int,
    look: int | None,
    open: bool,
    bank: Bank | None,
) -> tuple[int, bool]:
    """(seeds, fresh) for an inconclusive arm. fresh: all alpha is spent, so they make a new study.

    Own s from three pairs, else the bank's, else own s of two pairs. `look` is counted, not n: a seed that gave no
    pair cannot be run again.
    """
    decision = evidence.decision
    numbers, shares = looks(decision.start, decision.at_most), weights(decision.start, decision.at_most)
    s_plan = s if n >= 3 else bank.sd if bank is not None else s
    later = [x for x in numbers if x >= 2 and x > (look or 0)]
    goes_on = open and look != numbers[-1]
    if d is None or s_plan is None:
        if goes_on:
            return (later[0] if later else decision.at_most) - (look or 0), False
        return FRESH_BLIND, True
    needed = planning.seeds_needed(d, s_plan, decision.matters, shares[-1], m, decision.alpha)
    if goes_on:
        return next((x for x in later if x >= needed), decision.at_most) - (look or 0), False
    return needed, True


def price(evidence: Evidence, line: Line, places: Sequence[int] | None, fresh_seeds: int = 0) -> Price:
    """Of the runs not ended at these places, or (places None) of so many fresh seeds.

    An arm that shares weights pays only the training of the arm whose weights it shares.
    """
    trainers = list(dict.fromkeys(_trainer(evidence, a) for a in line.arms))
    if places is None:
        counts = dict.fromkeys(trainers, fresh_seeds)
    else:
        counts = {t: sum(evidence.status[t][i] == "absent" for i in places) for t in trainers}
    runs = sum(counts.values())
    times = {t: _seconds(evidence, t) for t, count in counts.items() if count}
    seconds = 0.0
    for t, time in times.items():
        seconds = seconds + counts[t] * time if time is not None else math.nan
    tokens = runs * evidence.decision.budget_tokens or None if runs else 0.0
    return Price(runs, tokens, seconds if math.isfinite(seconds) else None)


def _trainer(evidence: Evidence, arm: str) -> str:
    while arm != evidence.baseline and evidence.specs[arm].shares_weights:
        arm = evidence.reference(arm)
    return arm


def _seconds(evidence: Evidence, arm: str) -> float | None:
    """Median measured seconds of an arm's done runs."""
    measured = [
        float(run.seconds)
        for run, status in zip(evidence.runs[arm], evidence.status[arm], strict=True)
        if run is not None and status == "done" and run.seconds is not None and math.isfinite(run.seconds)
    ]
    return statistics.median(measured) if measured else None
