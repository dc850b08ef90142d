"""What a factorial says: its cells, what each factor does alone, what two or three do beyond that, and one plain sentence.

Interactions of two have a place in the family. A main effect has none: it averages over the other factors, so it carries a word
only where no interaction of its factor is shown, all its cells are fit, and a difference that it is made of is shown in the
family. The last keeps the family's error: without it 5.4% of 2x2 studies without any effect call something better or worse at
alpha .05 (200,000 simulated, looks at 3, 5 and 8 seeds); with it only those do that have another false word.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace

from ablab.verdict import visible
from ablab.verdict.contrasts import READING, ContrastLine, Factorial
from ablab.verdict.cost_of_more import price_text
from ablab.verdict.describe import NO_SIGN, line_row
from ablab.verdict.evidence import ArmSpec, Decision, RunScore
from ablab.verdict.family import Line, Standing, interval_of, sample_of
from ablab.verdict.fitness import of_cells
from ablab.verdict.interval import ZERO
from ablab.verdict.replayed import ReplayedStudy, replay_study, withheld
from ablab.verdict.rows import Cell, Crossed, Effect, Row
from ablab.verdict.stages import own_metric

APART = ("better", "worse")


def crossed(study: ReplayedStudy, factorial: Factorial, rows: Mapping[str, Row]) -> Crossed:
    """Return everything about one factorial; rows: of the arms."""
    evidence, stage = study.evidence, study.evidence.decision.stage
    lines = {line.name: line for line in study.lines}
    pairs = [_pair(study, factorial, one, lines[one.line.name]) for one in factorial.contrasts(2)]
    mains = [_main(study, factorial, one, pairs, rows) for one in factorial.contrasts(1)]
    thirds = [_third(study, one, pairs) for one in factorial.contrasts(3)]
    lost = _lost(study, factorial.cells.values(), factorial.reference)
    fit = [arm for arm in factorial.cells.values() if arm not in lost]
    seeds = evidence.common(fit, range(len(evidence.seeds)))
    cells = [
        Cell(arm, at, own_metric(evidence, arm, seeds, stage) if arm in fit else None)
        for at, arm in sorted(factorial.cells.items())
    ]
    return Crossed(
        factorial.name,
        factorial.factors,
        tuple(cells),
        tuple(evidence.seeds[i] for i in seeds),
        (*mains, *pairs, *thirds),
        _sentence(pairs, evidence.decision.matters, waits=bool(study.missing)),
    )


def _pair(study: ReplayedStudy, factorial: Factorial, one: ContrastLine, line: Line) -> Effect:
    row = line_row(study, line, None)
    lost = tuple(_lost(study, line.arms, line.reference))
    places = study.family.standings[line.name].places
    alone = None if lost else _alone(study, factorial, one, places)
    size = own_metric(study.evidence, line.reference, places, study.evidence.decision.stage) or 0.0
    counts = alone is not None and abs(math.fsum(alone)) > ZERO * abs(size)
    return Effect(
        **{field.name: getattr(row, field.name) for field in fields(Row)},
        label=one.label,
        order=2,
        of=one.of,
        reading=READING.get(row.word or "", ""),
        alone=alone,
        share=1 + row.delta / math.fsum(alone) if alone and counts and row.delta is not None else None,
        needs=lost,
    )


def _alone(
    study: ReplayedStudy, factorial: Factorial, one: ContrastLine, places: Sequence[int]
) -> tuple[float, float] | None:
    """Return what each of the two does without the other, over these places and the levels of every other factor."""
    if not places:
        return None
    weights, stage = list(factorial.weights(one.of)), study.evidence.decision.stage
    (f, _), (g, _) = one.of
    effects = []
    for other in (g, f):  # where the other stands at level 0, an interaction has minus what the first does
        apart = [(study.evidence.values(factorial.cells[at], stage), -x) for at, x in weights if at[other] == 0]
        effects.append(math.fsum(x * column[i] for column, x in apart for i in places) / len(places))
    return effects[0], effects[1]


def _main(
    study: ReplayedStudy, factorial: Factorial, one: ContrastLine, pairs: Sequence[Effect], rows: Mapping[str, Row]
) -> Effect:
    """Average a level of one factor over the others: its interval, and its word where it may carry one."""
    ((f, level),) = one.of
    own = [pair for pair in pairs if f in dict(pair.of)]
    standing = _last_look(study, one, own)
    if standing is None:
        return _unread(study, one)
    i = standing.interval
    if shown := [pair.label for pair in own if pair.word in APART]:
        return _numbers(study, one, standing, None, f"no word: it depends on the other factor ({'; '.join(shown)})")
    if any(study.family.standings[pair.name].waits for pair in own):
        return _numbers(study, one, standing, None, "no word before its interactions are settled")
    if i.word in withheld(study.evidence, one.line):
        return _numbers(study, one, standing, "inconclusive", NO_SIGN)
    made_of: list[Row] = [rows[arm] for at, arm in factorial.cells.items() if at[f] == level]
    made_of += [pair for pair in own if (f, level) in pair.of]
    if i.word in APART and not any(
        row.low is not None and row.high is not None and (row.low > 0 or row.high < 0) for row in made_of
    ):
        said = "0 is outside, but no difference that it is made of is shown"
        return _numbers(study, one, standing, "inconclusive", said)
    return _numbers(study, one, standing, i.word)


def _third(study: ReplayedStudy, one: ContrastLine, pairs: Sequence[Effect]) -> Effect:
    """Return what three levels do beyond their pairs: numbers only."""
    standing = _last_look(study, one, pairs)
    if standing is None:
        return _unread(study, one)
    return _numbers(study, one, standing, None, "no word: of interactions of three there are numbers only")


def _last_look(study: ReplayedStudy, one: ContrastLine, pairs: Sequence[Effect]) -> Standing | None:
    """Read at the last look that all its cells have reached, at a whole family's share; None before, or without a cell.

    The shares of all looks together are one line's, so whichever look it stops at is covered.
    """
    evidence, family = study.evidence, study.family
    if _lost(study, one.line.arms, one.line.reference):
        return None
    size = max((family.sizes[pair.name] for pair in pairs), default=1)
    for number, w in reversed(list(zip(family.looks, family.weights, strict=True))):
        if evidence.ended(one.line.arms, range(number)):
            places = evidence.common(one.line.arms, range(number))
            interval = interval_of(evidence, one.line, places, sample_of(evidence, one.line, places), w, size)
            return Standing(interval, number, places, open=False)
    return None


def _lost(study: ReplayedStudy, arms: Iterable[str], reference: str) -> dict[str, str]:
    """Name the cells that cannot be compared, and why: `x (diverged at seeds 1, 4)`."""
    everywhere = range(len(study.evidence.seeds))
    fits = {arm: of_cells(study.evidence, [arm], reference, everywhere) for arm in arms if arm != reference}
    return {arm: one.note for arm, one in fits.items() if one.word is not None}


def _unread(study: ReplayedStudy, one: ContrastLine) -> Effect:
    needs = tuple(_lost(study, one.line.arms, one.line.reference))
    everywhere = range(len(study.evidence.seeds))
    note = of_cells(study.evidence, one.line.arms[1:], one.line.reference, everywhere).note if needs else "waiting"
    return Effect(
        one.line.name, one.line.reference, None, notes=(note,), label=one.label, order=one.order, of=one.of, needs=needs
    )


def _numbers(study: ReplayedStudy, one: ContrastLine, standing: Standing, word: str | None, *notes: str) -> Effect:
    evidence, i = study.evidence, standing.interval
    values = one.line.values(evidence, standing.places, evidence.decision.stage)
    look = study.family.looks.index(standing.look or 0) + 1
    return Effect(
        one.line.name,
        one.line.reference,
        word,
        i.d,
        i.low,
        i.high,
        i.p,
        i.n,
        look,
        i.m,
        i.s,
        i.c,
        mde=visible.mde(i.s, i.n, i.w, i.m, evidence.decision.alpha) if i.s is not None and i.n >= 2 else None,
        lower=sum(x < 0 for x in values) if values else None,
        notes=(*notes, *([i.note] if i.note else [])),
        pairs=tuple(evidence.seeds[k] for k in standing.places),
        label=one.label,
        order=one.order,
        of=one.of,
    )


def _sentence(pairs: Sequence[Effect], matters: float, *, waits: bool) -> str:
    """Say what the pairs do together: each that is shown by itself, the others counted where they are many."""
    said = [_together(pair) for pair in pairs if pair.word in APART]
    lost = {need: None for pair in pairs for need in pair.needs}
    tied = [pair for pair in pairs if pair.word == "equivalent"]
    open_ = [pair for pair in pairs if pair.word == "inconclusive"]
    if tied:
        said.append(f"additive: what {_which(tied, pairs)} do beyond their sum is within {matters:g}")
    if open_:
        needed = max(open_, key=lambda pair: pair.more_seeds or 0)
        more = "" if waits else f": {price_text(needed)}"
        said.append(f"open: whether {_which(open_, pairs)} add up{more}")
    if lost:
        said.append(
            f"unknown for {sum(bool(pair.needs) for pair in pairs)} of {len(pairs)} pairs: needs {', '.join(lost)}"
        )
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}." if text else "Nothing is known yet."


def _which(some: Sequence[Effect], pairs: Sequence[Effect]) -> str:
    if len(some) == 1:
        return f"{some[0].label.replace(' x ', ' and ')}"
    return f"{len(some)} of {len(pairs)} pairs" if len(some) < len(pairs) else f"all {len(pairs)} pairs"


def _together(pair: Effect) -> str:
    """Write `they interfere: together they keep 40% of the sum (a=1 and b=2)`."""
    which = pair.label.replace(" x ", " and ")
    beyond = f"{pair.delta:+.3g} beyond their sum"
    if pair.share is None or pair.alone is None or pair.alone[0] * pair.alone[1] <= 0:
        return f"{pair.reading} ({which}): {beyond}"
    gain = pair.alone[0] < 0
    if pair.share > 0:
        verb = "keep" if gain and pair.share < 1 else "gain" if gain else "cost"
        return f"{pair.reading}: together they {verb} {pair.share:.0%} of the sum ({which})"
    lost = "nothing is left of what each gains alone" if gain else "they cost nothing of what each costs alone"
    return f"{pair.reading}: together {lost} ({which})"


def factorial(decision: Decision, cells: Factorial, seeds: Sequence[int], runs: Iterable[RunScore]) -> dict[str, Row]:
    """Return main effects and interactions of two of a factorial on its own, by labels (`A=on`, `A=on x B=on`).

    They are the whole family: no cell has a word. Inside a study give `factorials=` to judge instead.
    """
    arms = [ArmSpec(name, on=cells.reference) for name in cells.cells.values() if name != cells.reference]
    alone = {one.label: one.line for order in (1, 2) for one in cells.contrasts(order)}
    rule = replace(decision, baseline=cells.reference)
    study = replay_study(rule, arms, seeds, runs, None, [cells], tuple(alone.values()))
    return {label: line_row(study, line, None) for label, line in alone.items()}
