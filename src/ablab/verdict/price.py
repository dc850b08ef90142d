"""How many more seeds an arm needs, and what they cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ablab.verdict import planning
from ablab.verdict.evidence import Bank, Evidence, Work
from ablab.verdict.family import Line
from ablab.verdict.rows import Price
from ablab.verdict.spending import looks, weights

PLANS = 3  # pairs from which an arm's own spread plans; so many measure it, which is all they are asked for


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
    """Return (seeds, fresh) for an inconclusive arm. fresh: all alpha is spent, so they make a new study.

    Where no spread is known, that is what the seeds would measure: nobody knows how many settle it.

    Own s from three pairs, else the bank's, else own s of two pairs. `look` is counted, not n: a seed that gave no
    pair cannot be run again.
    """
    decision = evidence.decision
    numbers, shares = looks(decision.start, decision.at_most), weights(decision.start, decision.at_most)
    s_plan = s if n >= PLANS else bank.sd if bank is not None else s
    later = [x for x in numbers if x >= 2 and x > (look or 0)]
    goes_on = open and look != numbers[-1]
    if d is None or s_plan is None:
        if goes_on:
            return (later[0] if later else decision.at_most) - (look or 0), False
        return PLANS, True
    needed = planning.seeds_needed(d, s_plan, decision.matters, shares[-1], m, decision.alpha)
    if goes_on:
        return next((x for x in later if x >= needed), decision.at_most) - (look or 0), False
    return needed, True


def price(evidence: Evidence, line: Line, places: Sequence[int] | None, fresh_seeds: int = 0) -> Price:
    """Price the runs not ended at these places, or (places None) so many fresh seeds; see `total`.

    An arm that shares weights pays the training of the arm whose weights it shares, where it is not there, and its own stages.
    """
    if places is None:
        steps = {step.key: replace(step, done=False) for arm in line.arms for step in _work(evidence, arm, 0)}
        one = total(steps.values())
        tokens, seconds = (None if x is None else _finite(x * fresh_seeds) for x in (one.tokens, one.seconds))
        return Price(one.runs * fresh_seeds, tokens, seconds, one.evaluations * fresh_seeds)
    left = [(arm, i) for arm in line.arms for i in places if evidence.status[arm][i] == "absent"]
    return total(step for arm, i in left for step in _work(evidence, arm, i))


def total(steps: Iterable[Work]) -> Price:
    """Price all these steps, each key once, less those that are done."""
    left = list({step.key: step for step in steps if not step.done}.values())
    trained = [step.tokens for step in left if step.tokens is not None]
    tokens, seconds = sum(trained), sum(math.nan if step.seconds is None else step.seconds for step in left)
    return Price(len(trained), _finite(tokens), _finite(seconds), len(left) - len(trained))


def _finite(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None


def _work(evidence: Evidence, arm: str, place: int) -> tuple[Work, ...]:
    """List the steps of an arm at a place; of a log without any, the training of the arm whose weights it has."""
    run = evidence.runs[arm][place]
    if run is not None and run.work:
        return run.work
    while arm != evidence.baseline and evidence.specs[arm].shares_weights:
        arm = evidence.reference(arm)
    tokens, there = evidence.decision.budget_tokens or math.nan, evidence.status[arm][place] != "absent"
    return (Work(f"{arm} {place}", tokens, _seconds(evidence, arm), there),)


def _seconds(evidence: Evidence, arm: str) -> float | None:
    """Return the median measured seconds of an arm's done runs."""
    measured = [
        float(run.seconds)
        for run, status in zip(evidence.runs[arm], evidence.status[arm], strict=True)
        if run is not None and status == "done" and run.seconds is not None and math.isfinite(run.seconds)
    ]
    return statistics.median(measured) if measured else None
