"""Steps: every stage against the stage it is based on, within the runs, for the arm itself and against its reference."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ablab.verdict.documents import combined, same_text
from ablab.verdict.evidence import DocumentScores, Evidence
from ablab.verdict.family import Line
from ablab.verdict.interval import ZERO, summary
from ablab.verdict.rows import Band, Step
from ablab.verdict.spending import t_isf

Terms = Sequence[tuple[str, str, float]]  # (arm, stage, sign)


def scored_stages(evidence: Evidence, reference: str) -> list[str]:
    """List the stages, in file order, with scores of the reference: a probe is no level that a gap could start from."""
    known = [x for x in evidence.decision.stages if any(map(math.isfinite, evidence.values(reference, x)))]
    return known or [evidence.decision.stage]


def stands_on(evidence: Evidence, arm: str, stage: str, known: Sequence[str]) -> str | None:
    """Return the nearest scored stage below `stage` in the arm's chain; the first of all where it names none, whose is None."""
    own = evidence.specs[arm].chain
    chain = evidence.decision.chain if own is None else own
    seen = {stage}
    below = chain.get(stage)
    while below is not None and below not in known and below not in seen:
        seen.add(below)
        below = chain.get(below)
    base = below if below in known and below not in seen else known[0]
    return None if base == stage else base


def band(values: Sequence[float], c: float | None) -> Band | None:
    """Return mean -/+ c*sd/sqrt(n); None if the mean overflows, no bounds below two values."""
    sample = summary(values, values)
    if sample.d is None:
        return None
    if sample.n < 2 or sample.s is None or c is None:
        return Band(sample.d)
    half = c * sample.s / math.sqrt(sample.n)
    return Band(sample.d, sample.d - half, sample.d + half)


def document_band(evidence: Evidence, place: int, terms: Terms, m: int) -> tuple[Band, str] | None:
    """Return (a sum of signed scores of one seed with its interval over documents, what that rests on).

    No bounds where the documents are too few for a word; None where it has no comparable documents.
    """
    scores: list[tuple[float, DocumentScores]] = []
    for arm, stage, sign in terms:
        score = evidence.documents(arm, place, stage)
        if score is None:
            return None
        scores.append((sign, score))
    spread = combined(scores, evidence.decision.metric)
    if spread is None:
        return None
    delta, error = spread
    if error.error <= ZERO * abs(scores[0][1].metric(evidence.decision.metric)):
        return (Band(delta, delta, delta), error.said) if delta == 0 else None
    if not error.enough:
        return Band(delta), error.said
    half = t_isf(evidence.decision.alpha / (2 * m), error.df) * error.error
    return Band(delta, delta - half, delta + half), error.said


def arm_steps(
    evidence: Evidence, line: Line, places: Sequence[int], c: float | None, m: int
) -> tuple[dict[str, Step], list[str]]:
    """Return the steps of one line over its pairs, and notes on what cannot be compared. c: of the row's own look."""
    steps: dict[str, Step] = {}
    notes: list[str] = []
    known = scored_stages(evidence, line.reference)
    own_terms: Terms = [(line.name, "", 1.0)] if line.name in evidence.specs else []
    for stage in known:
        before = stands_on(evidence, line.name if own_terms else line.arms[0], stage, known)
        if before is None or not places:
            continue
        if any(_other_text(evidence, arm, places, before, stage) for arm in line.arms):
            notes.append(f"stage {stage}: scored on other documents than {before}, no gap between them")
            continue
        own = _between(evidence, own_terms, places, before, stage, c, m) if own_terms else None
        apart = _between(evidence, [(a, "", x) for a, x in line.terms], places, before, stage, c, m)
        if other := [(a, x) for a in line.arms if (x := stands_on(evidence, a, stage, known)) != before]:
            arm, below = other[0]
            notes.append(f"stage {stage}: stands on {before}, in {arm} on {below}; their gaps do not compare")
            if own is not None:
                steps[stage] = _step(before, own, None)
        elif apart is not None and (own is not None or not own_terms):
            steps[stage] = _step(before, own, apart)
    return steps, notes


def baseline_steps(evidence: Evidence, name: str, places: Sequence[int]) -> dict[str, Step]:
    """Return the baseline's own gaps over its done seeds; plain t intervals at the study's confidence: nothing is tested."""
    steps: dict[str, Step] = {}
    known = scored_stages(evidence, name)
    for stage in known:
        before = stands_on(evidence, name, stage, known)
        if before is None or not places or _other_text(evidence, name, places, before, stage):
            continue
        c = t_isf(evidence.decision.alpha / 2, len(places) - 1) if len(places) > 1 else None
        own = _between(evidence, [(name, "", 1.0)], places, before, stage, c, 1)
        if own is not None:
            steps[stage] = _step(before, own, None)
    return steps


Between = tuple[Band, str, str]  # a band, what it was taken over, and what that rests on


def _step(before: str, own: Between | None, apart: Between | None) -> Step:
    """Return the gap of an arm and what it is against its reference; at least one is there."""
    mine, theirs = own or _NONE, apart or _NONE
    gap = None if own is None else own[0].delta
    delta = None if apart is None else apart[0].delta
    _, over, said = apart or mine
    return Step(before, gap, mine[0].low, mine[0].high, delta, theirs[0].low, theirs[0].high, over, said)


_NONE: Between = (Band(math.nan), "seeds", "")


def _between(
    evidence: Evidence, terms: Terms, places: Sequence[int], before: str, stage: str, c: float | None, m: int
) -> Between | None:
    """Return the band of signed differences stage - before; None if a score is missing at any place."""
    values = [
        sum(x * (evidence.values(a, stage)[i] - evidence.values(a, before)[i]) for a, _, x in terms) for i in places
    ]
    if not all(map(math.isfinite, values)):
        return None
    if len(places) == 1:
        paired = [(a, at, x * sign) for a, _, x in terms for at, sign in ((stage, 1.0), (before, -1.0))]
        over = document_band(evidence, places[0], paired, m)
        if over is not None:
            return over[0], "documents", over[1]
    plain = band(values, c)
    return None if plain is None else (plain, "seeds", "")


def _other_text(evidence: Evidence, arm: str, places: Sequence[int], before: str, stage: str) -> bool:
    pairs = ((evidence.documents(arm, i, before), evidence.documents(arm, i, stage)) for i in places)
    return any(a is not None and b is not None and not same_text(a, b) for a, b in pairs)


def unstable_stages(evidence: Evidence, arm: str) -> dict[str, str]:
    """Name the stages at which the arm's own scores are not finite, each with its seeds and the reason, in words."""
    reasons: dict[str, str] = {}
    for stage in evidence.decision.stages:
        seeds, why = [], ""
        for i, run in enumerate(evidence.runs[arm]):
            score = None if run is None else run.stages.get(stage)
            if run is None or score is None:
                continue
            nats = score.nats if isinstance(score, DocumentScores) else np.asarray([score])
            if not np.isfinite(nats).all():
                seeds.append(evidence.seeds[i])
                why = why or run.faults.get(stage, "")
        if seeds:
            plural = "seed" if len(seeds) == 1 else "seeds"
            reasons[stage] = f"diverged at {plural} {', '.join(map(str, seeds))}" + (f" ({why})" if why else "")
    return reasons
