"""Shown beside the word, never deciding: every stage, the gaps between stages, inversions, the trajectory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ablab.verdict.evidence import Evidence
from ablab.verdict.family import Line
from ablab.verdict.interval import summary
from ablab.verdict.rows import Band, Gap, Inversion, StageBand


@dataclass(frozen=True)
class Shown:
    """The stage part of a row."""

    stages: Mapping[str, StageBand] = field(default_factory=dict)
    gaps: Mapping[str, Gap] = field(default_factory=dict)
    inversions: tuple[Inversion, ...] = ()
    trajectory: Band | None = None
    notes: tuple[str, ...] = ()


def shown(evidence: Evidence, line: Line, places: Sequence[int], c: float | None) -> Shown:
    """Every band is X -/+ c*sd(X)/sqrt(n) with the c and the pairs of the row's own look (c None: no bounds)."""
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
    stages = {}
    for stage, values in differences.items():
        if (b := band(values, c)) is not None:
            stages[stage] = StageBand(b.delta, b.low, b.high, _own_mean(evidence, line, places, stage))
    gaps = _gaps(evidence, line, places, differences, c)
    trajectory = band(index, c) if (index := trajectory_index(evidence, line, places)) else None
    return Shown(stages, gaps, _inversions(_scored_stages(evidence, line)[0], stages, gaps), trajectory, tuple(notes))


def band(values: Sequence[float], c: float | None) -> Band | None:
    """Mean -/+ c*sd/sqrt(n); None if the mean overflows, no bounds below two values."""
    sample = summary(values, values)
    if sample.d is None:
        return None
    if sample.n < 2 or sample.s is None or c is None:
        return Band(sample.d)
    half = c * sample.s / math.sqrt(sample.n)
    return Band(sample.d, sample.d - half, sample.d + half)


def own_metric(evidence: Evidence, arm: str, places: Sequence[int], stage: str) -> float | None:
    """Mean metric of an arm at a stage over these places; None if there is none or it is not finite."""
    column = evidence.values(arm, stage)
    mean = sum(column[i] for i in places) / len(places) if places else math.nan
    return mean if math.isfinite(mean) else None


def _own_mean(evidence: Evidence, line: Line, places: Sequence[int], stage: str) -> float | None:
    return own_metric(evidence, line.name, places, stage) if line.name in evidence.specs else None


def _scored_stages(evidence: Evidence, line: Line) -> list[str]:
    """The stages, in file order, that the reference has scores at: a probe is no level that a gap could start from."""
    known = [x for x in evidence.decision.stages if any(map(math.isfinite, evidence.values(line.reference, x)))]
    return known or [evidence.decision.stage]


def _other_documents(evidence: Evidence, line: Line, places: Sequence[int], stage: str) -> bool:
    """True if the stage was scored on other texts; the deciding stage has been checked before (and is not repeated)."""
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
    evidence: Evidence, line: Line, places: Sequence[int], differences: Mapping[str, list[float]], c: float | None
) -> dict[str, Gap]:
    first, *others = _scored_stages(evidence, line)
    found: dict[str, Gap] = {}
    if first not in differences:
        return found
    for stage in others:
        if stage not in differences:
            continue
        b = band([y - x for x, y in zip(differences[first], differences[stage], strict=True)], c)
        if b is not None:
            before, after = (_own_mean(evidence, line, places, x) for x in (first, stage))
            gap = None if before is None or after is None else after - before
            found[stage] = Gap(b.delta, b.low, b.high, gap)
    return found


def _inversions(first: str, stages: Mapping[str, StageBand], gaps: Mapping[str, Gap]) -> tuple[Inversion, ...]:
    found = []
    for stage, gap in gaps.items():
        if first not in stages or stage not in stages:
            continue
        f, g = stages[first], stages[stage]
        if not (f.delta < 0 < g.delta or g.delta < 0 < f.delta) or _side(gap) == 0:
            continue
        kind = "shown" if _side(f) * _side(g) < 0 else "likely"
        found.append(Inversion(first, stage, kind, f.delta, g.delta))
    return tuple(found)


def _side(b: Band) -> int:
    """The sign that the band shows, 0 if it holds 0 or has no bounds."""
    if b.low is None or b.high is None:
        return 0
    return 1 if b.low > 0 else -1 if b.high < 0 else 0


def second_half(evidence: Evidence, arm: str, place: int) -> dict[float, float]:
    """The evaluations of one run after half the budget: tokens seen -> metric."""
    run = evidence.runs[arm][place]
    budget = evidence.decision.budget_tokens
    points = () if run is None or run.trajectory is None or budget == 0 else run.trajectory
    return {float(t): float(y) for t, y in points if t > budget / 2}


def trajectory_index(evidence: Evidence, line: Line, places: Sequence[int]) -> list[float] | None:
    """Per pair, the mean difference over the common evaluations of the second half; None if any pair has none."""
    found = []
    for i in places:
        curves = {arm: second_half(evidence, arm, i) for arm in line.arms}
        common = sorted(set.intersection(*(set(curve) for curve in curves.values())))
        values = [sum(x * curves[a][t] for a, x in line.terms) for t in common]
        mean = sum(values) / len(values) if values else math.nan
        if not math.isfinite(mean):
            return None
        found.append(mean)
    return found or None
