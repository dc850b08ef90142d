"""What tells candidates apart that are not told apart by their words: who leads, who falls behind it, and each rung's values.

Candidates are ranked by their difference to the baseline, each over its own pairs: an arm's own number never meets another
arm's number of other seeds, because seeds differ by more than arms do.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ablab.verdict.evidence import Evidence
from ablab.verdict.interval import ZERO, read, summary
from ablab.verdict.spending import t_isf
from ablab.verdict.stages import second_half

Values = Mapping[str, Mapping[int, float]]  # arm -> place in the seed order -> value, lower is better


@dataclass
class Contest:
    """Every arm's pairs (the baseline's are all its done seeds), the look each one stands at, the alpha share of looks.

    shaky: references that diverge more often than an arm compared with them.
    """

    evidence: Evidence
    places: Mapping[str, Sequence[int]]
    looks: Mapping[str, int]
    shares: Mapping[int, float]
    shaky: Collection[str] = ()
    notes: list[str] = field(default_factory=list)


def preferred(evidence: Evidence, rung: str) -> str:
    """Return the arm that `prefer X` means: a name, "baseline", or the value of the changed setting of exactly one arm.

    Raises ValueError if no arm or several match.
    """
    x = rung.removeprefix("prefer ").strip()
    if x in evidence.specs:
        return x
    if x == "baseline":
        return evidence.baseline
    matching = [name for name, spec in evidence.specs.items() if spec.setting_value == x]
    if len(matching) != 1:
        fault = f"matches {', '.join(matching)}" if matching else "matches no arm"
        raise ValueError(f"decision.tie: {rung!r} {fault}; name one arm: {', '.join(evidence.specs)}")
    return matching[0]


def standing(contest: Contest, values: Values, arm: str) -> float | None:
    """Return an arm's difference to the baseline, 0 for itself; None where a link has no pair with values.

    It is the mean of value(arm) - value(reference) over the arm's own pairs. An arm on another arm adds that arm's own
    difference to its reference, and so on down to the baseline: the sum of the differences that the rows print. So an arm
    shown better than its reference also stands before it.
    """
    own: dict[str, float | None] = {}
    for x in contest.evidence.chain(arm):
        mine, theirs = values.get(x, {}), values.get(contest.evidence.reference(x), {})
        pairs = [mine[i] - theirs[i] for i in contest.places.get(x, ()) if i in mine and i in theirs]
        own[x] = math.fsum(pairs) / len(pairs) if pairs else None
    return contest.evidence.to_baseline(own, arm)


def leader(contest: Contest, values: Values, members: Sequence[str]) -> str:
    """Return the member with the lowest difference to the baseline; one without any comes last.

    Equal standings, to rounding, go by name, never by order.
    """
    places = {x: standing(contest, values, x) for x in members}
    at = {x: math.inf if d is None else d for x, d in places.items()}
    size = max((abs(y) for x in members for y in values.get(x, {}).values()), default=0.0)
    lowest = min(at.values())
    return min(x for x in members if at[x] <= lowest + ZERO * size)


def survivors(contest: Contest, values: Values, members: Sequence[str]) -> list[str]:
    """Drop every member shown worse than the leader over their common pairs, and a leader shown worse than a member.

    The level is one for all pairs of members: the leader was picked by its values.
    """
    best = leader(contest, values, members)
    words = {x: _against(contest, values, x, best, len(members)) for x in members if x != best}
    left = [x for x in members if words.get(x) != "worse"]
    return [x for x in left if x != best] if "better" in words.values() else left


def _against(contest: Contest, values: Values, x: str, best: str, count: int) -> str:
    """Return the word on value(x) - value(best) over the seeds that are pairs of both (the baseline: its done seeds)."""
    common = [i for i in _own(contest, values, x) if i in _own(contest, values, best)]
    look = min((contest.looks[a] for a in (x, best) if a in contest.looks), default=0)
    sample = summary([values[x][i] - values[best][i] for i in common], [values[best][i] for i in common])
    alpha, m = contest.evidence.decision.alpha, count * (count - 1) // 2
    return read(sample, matters=0.0, alpha=alpha, w=contest.shares.get(look, 0.0), m=m).word


def _own(contest: Contest, values: Values, arm: str) -> list[int]:
    return [i for i in sorted(contest.places[arm]) if i in values[arm]]


def needle_values(contest: Contest, members: Sequence[str]) -> Values | None:
    """Return minus the probe's score; None (with a note) if a member lacks two scores or the probe says nothing here."""
    evidence = contest.evidence
    probes = {
        x: {
            i: p
            for i in range(len(evidence.seeds))
            if evidence.status[x][i] == "done" and (p := _probe(evidence, x, i))
        }
        for x in evidence.specs
    }
    scores = {x: {i: -score for i, (score, _) in by_seed.items()} for x, by_seed in probes.items()}
    if short := [x for x in members if len(_own(contest, scores, x)) < 2]:
        contest.notes.append(f"needle skipped: fewer than two scored seeds for {', '.join(short)}")
        return None
    if _unpaired(contest, scores, members, "needle"):
        return None
    best = leader(contest, scores, members)
    own = [-scores[best][i] for i in _own(contest, scores, best)]
    sample = summary(own, own)
    floor = -math.inf
    if sample.d is not None and sample.s is not None:
        floor = sample.d - t_isf(evidence.decision.alpha / 2, sample.n - 1) * sample.s / math.sqrt(sample.n)
    accuracy = {x: [probes[x][i][1] for i in _own(contest, scores, x)] for x in members}
    below_ceiling = any(sum(acc) / len(acc) < 0.98 for acc in accuracy.values())
    if not (floor > 0 and below_ceiling):
        contest.notes.append("probe uninformative at this scale")
        return None
    return scores


def _unpaired(contest: Contest, values: Values, members: Sequence[str], rung: str) -> bool:
    """Tell whether a member cannot be compared with the baseline by these values; then the rung is skipped, with a note."""
    lost = [x for x in members if standing(contest, values, x) is None]
    if lost:
        contest.notes.append(f"{rung} skipped: no pair with its reference has both values for {', '.join(lost)}")
    return bool(lost)


def _probe(evidence: Evidence, arm: str, place: int) -> tuple[float, float] | None:
    run = evidence.runs[arm][place]
    if run is None or run.probe is None or not math.isfinite(run.probe[0]):
        return None
    return float(run.probe[0]), float(run.probe[1])


def trajectory_values(contest: Contest, members: Sequence[str]) -> Values | None:
    """Return each run's mean metric over the evaluations after half the budget that all these runs share; None if absent."""
    evidence = contest.evidence
    spots = {(x, i) for x in members for i in contest.places[x]}
    for x in {x for member in members for x in evidence.chain(member)}:
        spots |= {(arm, i) for arm in (x, evidence.reference(x)) for i in contest.places.get(x, ())}
    curves = {(x, i): second_half(evidence, x, i) for x, i in sorted(spots)}
    shared = sorted(set.intersection(*(set(curve) for curve in curves.values()))) if curves else []
    means = {spot: math.fsum(curve[t] for t in shared) / len(shared) for spot, curve in curves.items() if shared}
    if not means or not all(map(math.isfinite, means.values())):
        contest.notes.append("trajectory skipped: the runs share no evaluations after half the budget")
        return None
    by_arm: dict[str, dict[int, float]] = {}
    for (x, i), mean in means.items():
        by_arm.setdefault(x, {})[i] = mean
    return None if _unpaired(contest, by_arm, members, "trajectory") else by_arm
