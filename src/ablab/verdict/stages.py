"""Shown beside the word, never deciding: every stage, the gaps between stages, inversions, the trajectory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ablab.verdict.evidence import Evidence
from ablab.verdict.family import Line
from ablab.verdict.rows import Band, Gap, Inversion, StageBand, Step
from ablab.verdict.steps import arm_steps, band, document_band, scored_stages


@dataclass(frozen=True)
class Shown:
    """The stage part of a row."""

    stages: Mapping[str, StageBand] = field(default_factory=dict)
    gaps: Mapping[str, Gap] = field(default_factory=dict)
    steps: Mapping[str, Step] = field(default_factory=dict)
    inversions: tuple[Inversion, ...] = ()
    trajectory: Band | None = None
    notes: tuple[str, ...] = ()


def shown(evidence: Evidence, line: Line, places: Sequence[int], c: float | None, m: int = 1) -> Shown:
    """Show the row at every stage: bands are X -/+ c*sd(X)/sqrt(n) with c and pairs of its own look (None: no bounds).

    One pair with a c was judged over documents, and so are its stages and gaps; m is the row's share of the family.
    """
    if not places:
        return Shown()
    differences: dict[str, list[float]] = {}
    notes = []
    for stage in evidence.decision.stages:
        if _other_documents(evidence, line, places, stage):
            notes.append(f"stage {stage}: documents differ, not compared")
            continue
        values = line.values(evidence, places, stage)
        if all(map(math.isfinite, values)):
            differences[stage] = values
    one = places[0] if len(places) == 1 and c is not None else None  # one checkpoint, judged over documents
    stages = {}
    for stage, values in differences.items():
        over = None if one is None else document_band(evidence, one, [(a, stage, x) for a, x in line.terms], m)
        if over is not None and over[0].low is None:
            notes.append(f"stage {stage}: {over[1]}")
        if (b := over[0] if over else band(values, c)) is not None:
            stages[stage] = StageBand(b.delta, b.low, b.high, _own_mean(evidence, line, places, stage))
    gaps = _gaps(evidence, line, places, differences, c, None if one is None else m)
    steps, said = arm_steps(evidence, line, places, c, m)
    steps = {stage: step for stage, step in steps.items() if stage in differences and step.before in differences}
    trajectory = band(index, c) if (index := trajectory_index(evidence, line, places)) else None
    turned = _inversions(scored_stages(evidence, line.reference)[0], stages, gaps, steps)
    return Shown(stages, gaps, steps, turned, trajectory, (*notes, *said))


def own_metric(evidence: Evidence, arm: str, places: Sequence[int], stage: str) -> float | None:
    """Average an arm's metric at a stage over these places; None if there is none or it is not finite."""
    column = evidence.values(arm, stage)
    mean = sum(column[i] for i in places) / len(places) if places else math.nan
    return mean if math.isfinite(mean) else None


def _own_mean(evidence: Evidence, line: Line, places: Sequence[int], stage: str) -> float | None:
    return own_metric(evidence, line.name, places, stage) if line.name in evidence.specs else None


def _other_documents(evidence: Evidence, line: Line, places: Sequence[int], stage: str) -> bool:
    """Tell whether the stage was scored on other texts; the deciding stage has been checked before (and is not repeated)."""
    if stage == evidence.decision.stage:
        return False
    for i in places:
        first = evidence.documents(line.reference, i, stage)
        for arm in line.arms[1:]:
            other = evidence.documents(arm, i, stage)
            if first is None or other is None:
                continue
            if not np.array_equal(first.bytes, other.bytes):
                return True
            if evidence.decision.metric != "bits_per_byte" and not np.array_equal(first.tokens, other.tokens):
                return True
    return False


def _gaps(
    evidence: Evidence,
    line: Line,
    places: Sequence[int],
    differences: Mapping[str, list[float]],
    c: float | None,
    m: int | None,
) -> dict[str, Gap]:
    """Return the gaps from the first stage; m: over the documents of the one pair, at this share."""
    first, *others = scored_stages(evidence, line.reference)
    gaps: dict[str, Gap] = {}
    if first not in differences:
        return gaps
    for stage in others:
        if stage not in differences:
            continue
        terms = [(a, at, x * sign) for a, x in line.terms for at, sign in ((stage, 1.0), (first, -1.0))]
        over = None if m is None else document_band(evidence, places[0], terms, m)
        b = over[0] if over else band([y - x for x, y in zip(differences[first], differences[stage], strict=True)], c)
        if b is not None:
            before, after = (_own_mean(evidence, line, places, x) for x in (first, stage))
            gap = None if before is None or after is None else after - before
            gaps[stage] = Gap(b.delta, b.low, b.high, gap)
    return gaps


def _inversions(
    first: str, stages: Mapping[str, StageBand], gaps: Mapping[str, Gap], steps: Mapping[str, Step]
) -> tuple[Inversion, ...]:
    """List changes of sides from the first stage, and from each stage to the one that is based on it."""
    over = {stage: step.over for stage, step in steps.items() if step.before == first}
    turns = [_turn(first, stage, stages, gap, over.get(stage, "seeds")) for stage, gap in gaps.items()]
    for stage, step in steps.items():
        if step.delta is not None and (step.before != first or _side(gaps.get(stage)) == 0):
            apart = Band(step.delta, step.low, step.high)
            turns.append(_turn(step.before, stage, stages, apart, step.over))
    return tuple(turn for turn in turns if turn is not None)


def _turn(first: str, stage: str, stages: Mapping[str, StageBand], gap: Band, over: str) -> Inversion | None:
    if first not in stages or stage not in stages:
        return None
    f, g = stages[first], stages[stage]
    if not (f.delta < 0 < g.delta or g.delta < 0 < f.delta) or _side(gap) == 0:
        return None
    kind = "shown" if _side(f) * _side(g) < 0 else "likely"
    return Inversion(first, stage, kind, f.delta, g.delta, over)


def _side(b: Band | None) -> int:
    """Return the sign that the band shows, 0 if it holds 0 or has no bounds."""
    if b is None or b.low is None or b.high is None:
        return 0
    return 1 if b.low > 0 else -1 if b.high < 0 else 0


def second_half(evidence: Evidence, arm: str, place: int) -> dict[float, float]:
    """Return the evaluations of one run after half the budget: tokens seen -> metric."""
    run = evidence.runs[arm][place]
    budget = evidence.decision.budget_tokens
    points = () if run is None or run.trajectory is None or budget == 0 else run.trajectory
    return {float(t): float(y) for t, y in points if t > budget / 2}


def trajectory_index(evidence: Evidence, line: Line, places: Sequence[int]) -> list[float] | None:
    """Return per pair the mean difference over the common evaluations of the second half; None if any pair has none."""
    means = []
    for i in places:
        curves = {arm: second_half(evidence, arm, i) for arm in line.arms}
        common = sorted(set.intersection(*(set(curve) for curve in curves.values())))
        values = [sum(x * curves[a][t] for a, x in line.terms) for t in common]
        mean = sum(values) / len(values) if values else math.nan
        if not math.isfinite(mean):
            return None
        means.append(mean)
    return means or None
