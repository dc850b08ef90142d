"""The winner: shown better, else what the declared tie list says, rung by rung, and always by what name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ablab.verdict.evidence import Evidence
from ablab.verdict.interval import read, summary
from ablab.verdict.rows import Row
from ablab.verdict.spending import t_isf
from ablab.verdict.stages import second_half

NOTHING = "nothing shown better"
SELECTED = "lowest mean, selected and not shown"
Values = Mapping[str, Mapping[int, float]]  # arm -> place in the seed order -> value, lower is better


@dataclass
class Contest:
    """The candidates' pairs, the look each one stands at (the baseline has none), and the alpha share of every look."""

    evidence: Evidence
    places: Mapping[str, Sequence[int]]
    looks: Mapping[str, int]
    shares: Mapping[int, float]
    notes: list[str] = field(default_factory=list)


def preferred(evidence: Evidence, rung: str) -> str:
    """The arm that `prefer X` means: a name, "baseline", or the value of the changed setting of exactly one arm.

    Raises ValueError if no arm or several match.
    """
    x = rung.removeprefix("prefer ").strip()
    if x in evidence.specs:
        return x
    if x == "baseline":
        return evidence.baseline
    found = [name for name, spec in evidence.specs.items() if spec.setting_value == x]
    if len(found) != 1:
        fault = f"matches {', '.join(found)}" if found else "matches no arm"
        raise ValueError(f"decision.tie: {rung!r} {fault}; name one arm: {', '.join(evidence.specs)}")
    return found[0]


def candidates(evidence: Evidence, rows: Mapping[str, Row], promoted: frozenset[str]) -> tuple[list[str], bool]:
    """(T, whether they were shown better). An arm on another arm enters only if that arm would."""

    def enters(name: str, words: tuple[str, ...]) -> bool:
        if name == evidence.baseline:
            return True
        if name not in rows or rows[name].word is None:
            return False
        row = rows[name]
        close = row.delta is not None and abs(row.delta) < evidence.decision.matters
        by_word = row.word in words and (row.word != "inconclusive" or (close and name in promoted))
        return by_word and enters(evidence.reference(name), words)

    names = [a.name for a in evidence.arms]
    better = [x for x in names if enters(x, ("better",)) and not evidence.specs[x].barred]
    if better:
        return better, True
    tied = [evidence.baseline, *(x for x in names if enters(x, ("equivalent", "inconclusive")))]
    return [x for x in tied if not evidence.specs[x].barred], False


def decide(contest: Contest, members: Sequence[str], shown: bool) -> tuple[str | None, str]:
    """(winner, decided_by) of the candidates T."""
    evidence = contest.evidence
    if not members:
        return None, "no arm is within the limits"
    metric = metric_values(contest, members)
    left = list(members)
    if shown and len(left) > 1:
        left = survivors(contest, metric, left)
    if len(left) == 1:
        return left[0], "loss" if shown else NOTHING
    for rung in evidence.decision.tie:
        if rung == "lowest":
            return leader(metric, left), SELECTED
        if rung.startswith("prefer "):
            left = [x] if (x := preferred(evidence, rung)) in left else left
        else:
            values = needle_values(contest, left) if rung == "needle" else trajectory_values(contest, left)
            left = left if values is None else survivors(contest, values, left)
        if len(left) == 1:
            return left[0], rung
    if evidence.baseline in left:
        return evidence.baseline, NOTHING
    return leader(metric, left), SELECTED


def metric_values(contest: Contest, members: Sequence[str]) -> Values:
    """The deciding metric of each candidate over its pairs."""
    stage = contest.evidence.decision.stage
    return {x: {i: contest.evidence.values(x, stage)[i] for i in contest.places[x]} for x in members}


def leader(values: Values, members: Sequence[str]) -> str:
    """Lowest mean over the seeds that all members share (their own if they share none): seeds differ, arms are asked.

    Equal means go by name, never by order.
    """
    shared = set.intersection(*(set(values[x]) for x in members))

    def mean(x: str) -> float:
        own = [values[x][i] for i in sorted(shared or values[x])]
        return sum(own) / len(own) if own else math.inf

    return min(members, key=lambda x: (mean(x), x))


def survivors(contest: Contest, values: Values, members: Sequence[str]) -> list[str]:
    """Drop every member shown worse than the leader, at a level for all pairs: the leader was picked by its values."""
    best = leader(values, members)
    m = len(members) * (len(members) - 1) // 2
    alpha = contest.evidence.decision.alpha
    left = []
    for x in members:
        common = sorted(set(values[x]) & set(values[best]))
        look = min((contest.looks[a] for a in (x, best) if a in contest.looks), default=0)
        sample = summary([values[x][i] - values[best][i] for i in common], [values[best][i] for i in common])
        interval = read(sample, matters=0.0, alpha=alpha, w=contest.shares.get(look, 0.0), m=m)
        if x == best or interval.word != "worse":
            left.append(x)
    return left


def needle_values(contest: Contest, members: Sequence[str]) -> Values | None:
    """Minus the probe's score; None (with a note) if a member lacks two scores or the probe says nothing here."""
    scores: dict[str, dict[int, float]] = {}
    accuracy: dict[str, list[float]] = {}
    for x in members:
        probes = {i: p for i in contest.places[x] if (p := _probe(contest.evidence, x, i)) is not None}
        scores[x] = {i: -score for i, (score, _) in probes.items()}
        accuracy[x] = [acc for _, acc in probes.values()]
    if short := [x for x in members if len(scores[x]) < 2]:
        contest.notes.append(f"needle skipped: fewer than two scored seeds for {', '.join(short)}")
        return None
    own = [-y for y in scores[leader(scores, members)].values()]
    sample = summary(own, own)
    floor = -math.inf
    if sample.d is not None and sample.s is not None:
        floor = sample.d - t_isf(contest.evidence.decision.alpha / 2, sample.n - 1) * sample.s / math.sqrt(sample.n)
    below_ceiling = any(sum(acc) / len(acc) < 0.98 for acc in accuracy.values())
    if not (floor > 0 and below_ceiling):
        contest.notes.append("probe uninformative at this scale")
        return None
    return scores


def _probe(evidence: Evidence, arm: str, place: int) -> tuple[float, float] | None:
    run = evidence.runs[arm][place]
    if run is None or run.probe is None or not math.isfinite(run.probe[0]):
        return None
    return float(run.probe[0]), float(run.probe[1])


def trajectory_values(contest: Contest, members: Sequence[str]) -> Values | None:
    """Each run's mean metric over the evaluations after half the budget that all these runs share; None if absent."""
    curves = {(x, i): second_half(contest.evidence, x, i) for x in members for i in contest.places[x]}
    shared = sorted(set.intersection(*(set(curve) for curve in curves.values()))) if curves else []
    means = {spot: sum(curve[t] for t in shared) / len(shared) for spot, curve in curves.items() if shared}
    if not means or not all(map(math.isfinite, means.values())):
        contest.notes.append("trajectory skipped: the runs share no evaluations after half the budget")
        return None
    return {x: {i: means[x, i] for i in contest.places[x]} for x in members}
