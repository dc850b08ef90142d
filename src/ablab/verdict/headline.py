"""The winner and the first sentence of a verdict: what was shown, by how much at least, and what is still open.

The winner is shown better, or what the declared tie list says, rung by rung (`ablab.verdict.tie`); always by what name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from ablab.verdict.cost_of_more import price_text
from ablab.verdict.evidence import Evidence
from ablab.verdict.interval import ZERO
from ablab.verdict.rates import often
from ablab.verdict.rows import Row
from ablab.verdict.tie import Contest, Values, leader, needle_values, preferred, survivors, trajectory_values

UNITS = {"nats_per_token": "nats/token", "bits_per_byte": "bits/byte"}
JUDGED = ("better", "worse", "equivalent", "inconclusive")
UNJUDGED = ("unstable", "invalid")
NAMED = 3  # arms with their numbers beside the winner
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


def sentence(
    evidence: Evidence,
    rows: Mapping[str, Row],
    winner: str | None,
    decided_by: str,
    missing: int,
    warnings: Iterable[str],
) -> str:
    """Write warnings, the winner or why there is none, other arms shown better, and inconclusive arms with prices.

    Whatever was shown better comes with the near end of its interval: best guesses of what was selected for being good
    are too good. A baseline that stays because nothing was shown is no winner. What was picked for standing lowest is so among
    those that could be picked: arms left out that stand lower are named.
    """
    said = "".join(f"Warning: {one}. " for one in warnings)
    if missing:
        said += f"No winner ({decided_by}), {missing} runs to the next look"
    elif winner is None:
        said += f"No winner ({decided_by})"
    elif winner == evidence.baseline:
        said += _stays(evidence, rows, decided_by)
    else:
        said += f"The winner is {winner} ({_lead(evidence, rows, winner, decided_by)}"
    said += _besides(evidence, rows, None if missing else winner)
    open_ = [f"{r.name} ({price_text(r)})" for r in rows.values() if r.word == "inconclusive"]
    return said + (f"; inconclusive: {', '.join(open_)}." if open_ else ".")


def _lead(evidence: Evidence, rows: Mapping[str, Row], winner: str, decided_by: str) -> str:
    row, by = rows[winner], _chosen(evidence, rows, winner, decided_by)
    lost = _lost(row, row.name)
    if row.word != "better" or row.high is None or row.delta is None:
        shown = "no arm that may win is" if any(other.word == "better" for other in rows.values()) else "no arm is"
        behind = f"; {winner} is shown behind, by less than matters" if row.low is not None and row.low > 0 else ""
        return f"{'' if decided_by == NOTHING else f'{by}; '}{shown} shown better{behind}{lost})"
    return f"{by}{lost}): {_near(evidence, row)}"


def _besides(evidence: Evidence, rows: Mapping[str, Row], winner: str | None) -> str:
    """List arms shown better that are not the winner, the best guess first; at most three with their numbers."""
    shown = [row for name, row in rows.items() if row.word == "better" and name in evidence.specs and name != winner]
    shown.sort(key=lambda row: row.delta or 0.0)
    said = [f"{row.name}, {_near(evidence, row)}" for row in shown[:NAMED]]
    more = f", and {len(shown) - NAMED} more" if len(shown) > NAMED else ""
    too = "" if winner in (None, evidence.baseline) else " too"
    return f"; shown better{too}: {', '.join(said)}{more}" if shown else ""


def _near(evidence: Evidence, row: Row) -> str:
    """Write `at least 0.0012 nats/token better than baseline (best guess 0.0042)`: the near end of what is shown first."""
    assert row.high is not None and row.delta is not None  # shown better, so it has an interval
    unit = UNITS.get(evidence.decision.metric, evidence.decision.metric).removeprefix("-")
    return f"at least {-row.high:.3g} {unit} better than {row.on} (best guess {-row.delta:.3g})"


def _chosen(evidence: Evidence, rows: Mapping[str, Row], winner: str, decided_by: str) -> str:
    """Say by what the winner was decided; of the lowest, among which arms, and which lower one could not be picked.

    Only what is shown better, or else is not apart from the baseline by what matters, can be picked. So an arm that looks far
    better and is not shown to be is left out, and the next one would read like the best of all.
    """
    if decided_by != SELECTED or not (lower := _lower(evidence, rows, winner)):
        return decided_by
    if rows[winner].word == "better":
        among = "the arms shown better"
    else:
        among = f"those not apart by {evidence.decision.matters:g}"
    among += "" if evidence.decision.tie[:1] in ((), ("lowest",)) else " that the earlier rungs left"
    return f"{SELECTED.replace('mean', f'mean of {among}', 1)}; lower and left out: {', '.join(lower)}"


def _lower(evidence: Evidence, rows: Mapping[str, Row], winner: str) -> list[str]:
    """List `a0 (inconclusive, -0.0525)` of every arm that its rows put below the winner, summed up to the baseline."""
    own = {name: row.delta for name, row in rows.items()}
    at = {name: evidence.to_baseline(own, name) for name in evidence.specs}
    bound, size = at.get(winner), abs(rows[evidence.baseline].mean or 0.0)
    if bound is None:
        return []
    below = [(d, name) for name, d in at.items() if d is not None and d < bound - ZERO * size]
    barred = {name: ", cannot win" for name, spec in evidence.specs.items() if spec.barred}
    return [f"{name} ({rows[name].word or 'no word'}, {d:+.3g}{barred.get(name, '')})" for d, name in sorted(below)]


def _stays(evidence: Evidence, rows: Mapping[str, Row], decided_by: str) -> str:
    """Say why the baseline stays: shown ahead of every arm that could be judged, or only not shown behind."""
    arms = [row for name, row in rows.items() if name in evidence.specs and name != evidence.baseline]
    judged = [row for row in arms if row.word in JUDGED]
    words = {row.word for row in judged}
    apart = [r for r in judged if r.low is not None and r.high is not None and (r.low > 0 or r.high < 0)]
    others = [f"{row.name} {row.word}" for row in arms if row.word in UNJUDGED]
    besides = _lost(rows[evidence.baseline], "the baseline") + (f"; not judged: {', '.join(others)}" if others else "")
    if words == {"worse"}:
        which = "every arm that could be judged" if others else "every arm"
        return f"The winner is the baseline ({which} is shown worse{besides})"
    if "better" in words:
        what = "no arm that may win is shown better"
    elif "worse" in words:
        what = "no arm is shown better"
    elif any(row.word == "equivalent" for row in apart):
        what = "nothing is shown to differ by what matters"
    elif apart:
        what = "no arm is shown better"
    elif arms and not judged:
        what = "no arm could be judged"
    elif judged and all(row.delta is None for row in judged):
        what = "no arm has a pair with its reference"
    else:
        what = "nothing is shown to differ"
    rung = "" if decided_by == NOTHING else f" ({_chosen(evidence, rows, evidence.baseline, decided_by)})"
    return f"No winner: {what}; the baseline stays{rung}{besides}"


def _lost(row: Row, who: str) -> str:
    """Say that the row's own runs diverged, from two seeds on; a single one is in the notes."""
    return f"; {who} diverged at {often(row.diverged)}" if row.diverged is not None and row.diverged.count > 1 else ""
