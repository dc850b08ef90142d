"""The winner: shown better, else what the declared tie list says, rung by rung (`ablab.verdict.tie`); always by what name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ablab.verdict.evidence import Evidence
from ablab.verdict.rows import Row
from ablab.verdict.tie import Contest, Values, leader, needle_values, preferred, survivors, trajectory_values

NOTHING = "nothing shown better"
SELECTED = "lowest mean, selected and not shown"
DIVERGED = "no arm is shown better, and the baseline diverged"


def candidates(
    evidence: Evidence, rows: Mapping[str, Row], promoted: frozenset[str], shaky: Collection[str]
) -> tuple[list[str], bool]:
    """Return (T, whether they were shown better). An arm on another arm enters only if that arm would.

    shaky: references that diverge more often than an arm compared with them; none of these can win. Where the baseline is
    one and no arm is shown better, nobody can: the others were only ever compared with it.
    """

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
    out = {x for x, spec in evidence.specs.items() if spec.barred} | set(shaky)
    better = [x for x in names if enters(x, ("better",)) and x not in out]
    if better or evidence.baseline in shaky:
        return better, bool(better)
    tied = [evidence.baseline, *(x for x in names if enters(x, ("equivalent", "inconclusive")))]
    return [x for x in tied if x not in out], False


def decide(contest: Contest, members: Sequence[str], shown: bool) -> tuple[str | None, str]:
    """Decide (winner, decided_by) of the candidates T."""
    evidence = contest.evidence
    if not members:
        return None, "no arm is within the limits" if evidence.baseline not in contest.shaky else DIVERGED
    metric = metric_values(contest)
    left = list(members)
    if shown and len(left) > 1:
        left = survivors(contest, metric, left)
    if len(left) == 1:
        return left[0], "loss" if shown else NOTHING
    for rung in evidence.decision.tie:
        if rung == "lowest":
            return leader(contest, metric, left), SELECTED
        if rung.startswith("prefer "):
            left = [x] if (x := preferred(evidence, rung)) in left else left
        else:
            values = needle_values(contest, left) if rung == "needle" else trajectory_values(contest, left)
            left = left if values is None else survivors(contest, values, left)
        if len(left) == 1:
            return left[0], rung
    if evidence.baseline in left:
        return evidence.baseline, NOTHING
    return leader(contest, metric, left), SELECTED


def metric_values(contest: Contest) -> Values:
    """Return the deciding metric of each arm over its pairs, and of its reference wherever it is done."""
    return {x: _done(contest.evidence, x) for x in contest.evidence.specs}


def _done(evidence: Evidence, arm: str) -> dict[int, float]:
    column = evidence.values(arm, evidence.decision.stage)
    return {i: column[i] for i in evidence.common([arm], range(len(evidence.seeds)))}
