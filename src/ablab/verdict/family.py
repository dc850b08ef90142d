"""The replay: from the stored scores to every arm's interval, look by look, Holm in rounds inside a look."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ablab.verdict import planning
from ablab.verdict.documents import Spread, combined, document_error
from ablab.verdict.evidence import Evidence
from ablab.verdict.interval import Interval, Sample, read, read_documents, summary
from ablab.verdict.spending import looks, weights


@dataclass(frozen=True)
class Line:
    """One place in the family: a difference per seed, linear in the metrics of its arms.

    An arm's line is its metric minus its reference's; an effect of a factorial weighs its cells. The zero test uses the size
    of the reference's metric.
    """

    name: str
    terms: tuple[tuple[str, float], ...]
    reference: str
    shares_weights: bool = False
    family: int = 0
    same_as: str = ""

    @property
    def place(self) -> str:
        """Whose place in the family it takes: its own, or that of the line that it repeats."""
        return self.same_as or self.name

    @property
    def arms(self) -> tuple[str, ...]:
        """Every arm whose runs this line needs, the reference first."""
        return (self.reference, *(a for a, _ in self.terms if a != self.reference))

    def values(self, evidence: Evidence, places: Sequence[int], stage: str) -> list[float]:
        """Return the difference at each of the places (nan where a score is missing)."""
        columns = [(evidence.values(a, stage), x) for a, x in self.terms]
        return [sum(x * column[i] for column, x in columns) for i in places]


@dataclass
class Standing:
    """Where a line stands after the replay."""

    interval: Interval = field(default_factory=lambda: Interval("inconclusive", None, None, 0, 0, 0.0))
    look: int | None = None  # its number of seeds, not its index
    places: list[int] = field(default_factory=list)
    chance: float | None = None
    open: bool = True
    waits: bool = False
    notes: list[str] = field(default_factory=list)


Withheld = Mapping[str, Collection[str]]  # line -> words


@dataclass(frozen=True)
class Family:
    """All the lines after the replay; sizes are A, of the family that each line belongs to."""

    standings: Mapping[str, Standing]
    sizes: Mapping[str, int]
    looks: tuple[int, ...]
    weights: tuple[float, ...]


def replay(
    evidence: Evidence, lines: Sequence[Line], fit: set[str], withheld: Withheld, size: int, keep: int | None
) -> Family:
    """Replay from look 1. lines: the promoted ones; fit: names that are neither invalid nor unstable; size: A.

    withheld: words that a line is not called by, because an arm diverged once where its reference did not, and the pairs
    left are those that it survived. Such a line stays open and in the family, and goes on to the next look, where a second
    divergence or one of the reference tells chance from a habit.
    """
    decision = evidence.decision
    numbers = looks(decision.start, decision.at_most)
    shares = weights(decision.start, decision.at_most)
    standings = {line.name: Standing() for line in lines}
    open_ = [line for line in lines if line.name in fit]
    off: set[str] = set()
    blocked = False
    for k, (number, w) in enumerate(zip(numbers, shares, strict=True)):
        places = range(decision.probe, decision.probe + number)
        live = [line for line in open_ if not blocked and evidence.ended(line.arms, places)]
        for line in live:
            standings[line.name].look = number
            standings[line.name].places = evidence.common(line.arms, places)
        last = k == len(numbers) - 1
        _rounds(evidence, live, standings, off, withheld, size, w)
        if not last:
            _give_up(evidence, live, standings, shares[-1])
        open_ = [line for line in open_ if standings[line.name].open]
        if k == 0 and keep is not None and not last:
            # choosing before every open arm has reached the look would make the choice depend on the order of running
            blocked = any(standings[line.name].look is None for line in open_)
            if not blocked:
                open_ = _keep(evidence, open_, standings, keep)
    for line in open_:
        standings[line.name].waits = standings[line.name].look != numbers[-1]
    return Family(standings, dict.fromkeys(standings, size), numbers, shares)


def _rounds(
    evidence: Evidence,
    live: Sequence[Line],
    standings: Mapping[str, Standing],
    off: set[str],
    withheld: Withheld,
    size: int,
    w: float,
) -> None:
    samples = {line.name: sample_of(evidence, line, standings[line.name].places) for line in live}
    live = list(live)
    while live:
        m = max(1, size - len(off))
        joined = set()
        for line in live:
            standing = standings[line.name]
            standing.interval = interval_of(evidence, line, standing.places, samples[line.name], w, m)
            if standing.interval.word in withheld.get(line.name, ()):
                standing.interval = replace(standing.interval, word="inconclusive")
            standing.chance = None
            standing.open = standing.interval.word == "inconclusive"
            if standing.interval.excludes_zero and not standing.open:
                joined.add(line.place)
        live = [line for line in live if standings[line.name].open]
        if not joined:
            return
        off |= joined


def sample_of(evidence: Evidence, line: Line, places: Sequence[int]) -> Sample:
    """Return the line's differences at these places."""
    stage = evidence.decision.stage
    reference = evidence.values(line.reference, stage)
    return summary(line.values(evidence, places, stage), [reference[i] for i in places])


def interval_of(evidence: Evidence, line: Line, places: Sequence[int], sample: Sample, w: float, m: int) -> Interval:
    """Return a line's interval: over seeds, or over one checkpoint's documents where that is all there will be."""
    decision = evidence.decision
    if over_documents(evidence, line) and sample.n == 1 and sample.d is not None:
        over = documents_of(evidence, line, places, sample.d)
        if over is not None:
            return read_documents(sample.d, over, sample.scale, matters=decision.matters, alpha=decision.alpha, m=m)
    return read(sample, matters=decision.matters, alpha=decision.alpha, w=w, m=m)


def documents_of(evidence: Evidence, line: Line, places: Sequence[int], d: float) -> Spread | None:
    """Return the spread of a line's difference over documents; of a contrast only where it decides, for one checkpoint."""
    if line.name in evidence.specs:
        return document_error(evidence, line.name, line.reference, places, d)
    if not over_documents(evidence, line) or len(places) != 1:
        return None
    scores = [(x, evidence.documents(a, places[0], evidence.decision.stage)) for a, x in line.terms]
    known = [(x, score) for x, score in scores if score is not None]
    over = combined(known, evidence.decision.metric) if len(known) == len(scores) else None
    return None if over is None else over[1]


def over_documents(evidence: Evidence, line: Line) -> bool:
    """Tell whether the line is judged over documents: the weights are shared, and no second seed is planned."""
    return line.shares_weights and evidence.decision.at_most == 1


def _give_up(evidence: Evidence, live: Sequence[Line], standings: Mapping[str, Standing], w_last: float) -> None:
    decision = evidence.decision
    for line in live:
        standing = standings[line.name]
        i = standing.interval
        if not standing.open or i.d is None or i.s is None or i.excludes_zero:  # the last: diverged once
            continue
        standing.chance = planning.chance(
            i.d, i.s, i.n, decision.at_most, w_last, i.m, matters=decision.matters, alpha=decision.alpha
        )
        if standing.chance is not None and standing.chance < planning.GIVE_UP:
            standing.open = False
            standing.notes.append(f"unlikely to be settled by {decision.at_most} seeds")


def _keep(evidence: Evidence, open_: Sequence[Line], standings: Mapping[str, Standing], keep: int) -> list[Line]:
    own = {name: standing.interval.d for name, standing in standings.items()}
    kept = set(lowest({line.name: evidence.to_baseline(own, line.name) for line in open_}, keep))
    for line in open_:
        if line.name not in kept:
            standings[line.name].open = False
            standings[line.name].notes.append("not kept")
    return [line for line in open_ if line.name in kept]


def lowest(deltas: Mapping[str, float | None], count: int) -> list[str]:
    """Name the `count` lowest differences to the baseline; a missing one is never chosen, ties go by name."""
    known = sorted((d, name) for name, d in deltas.items() if d is not None and math.isfinite(d))
    return [name for _, name in known[:count]]
