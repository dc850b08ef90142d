"""A whole study replayed from its runs: who is fit, who was promoted, where every arm stands, what is still missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ablab.verdict import contrasts
from ablab.verdict.contrasts import Factorial
from ablab.verdict.evidence import ArmSpec, Bank, Decision, Evidence, RunScore
from ablab.verdict.family import Family, Line, Withheld, lowest, replay, sample_of
from ablab.verdict.fitness import Divergences, Fitness, divergences, fitness, of_cells
from ablab.verdict.interval import Sample
from ablab.verdict.spending import looks
from ablab.verdict.tie import preferred


@dataclass(frozen=True)
class ReplayedStudy:
    """The replayed study. promoted is None while no probe is finished; probed are the probe's differences.

    lines: what has a place in a family, arms first, then the interactions of factorials. withheld: words that a line is not
    called by, since an arm of it diverged once where its reference did not. probing: lines of families whose own probe is
    not finished.
    """

    evidence: Evidence
    lines: tuple[Line, ...]
    fit: dict[str, Fitness]
    withheld: Withheld
    promoted: frozenset[str] | None
    probed: dict[str, Sample]
    family: Family
    missing: tuple[tuple[str, int], ...]
    probing: frozenset[str] = frozenset()


def replay_study(
    decision: Decision,
    arms: Sequence[ArmSpec],
    seeds: Sequence[int],
    runs: Iterable[RunScore],
    bank: Bank | None = None,
    factorials: Sequence[Factorial] = (),
    alone: Sequence[Line] | None = None,
) -> ReplayedStudy:
    """Replay everything that follows from the runs alone. Raises ValueError if the study itself contradicts itself.

    alone: the whole family, in place of the arms and the factorials' interactions.
    """
    evidence = Evidence(decision, arms, seeds, runs)
    if factorials:
        contrasts.check(evidence, factorials)
    for rung in decision.tie:
        if rung.startswith("prefer "):
            preferred(evidence, rung)  # refused now, not after the money is spent
    if decision.keep == "2 sigma" and bank is None:
        raise ValueError('decision.seeds.keep: "2 sigma" needs a bank; give one, or keep a number of arms')
    lines = _arm_lines(evidence) + interactions(evidence, factorials) if alone is None else tuple(alone)
    everywhere = range(len(evidence.seeds))
    fit = {line.name: _fitness(evidence, line, everywhere) for line in lines}
    probes = [_promote(evidence, group, bank) for group in _grouped(lines)]
    finished = [names for names, _, _ in probes if names is not None]
    promoted = frozenset[str]().union(*finished) if finished or not probes else None
    probed = {name: sample for _, own, _ in probes for name, sample in own.items()}
    needed = {spot for _, _, own in probes for spot in own}
    probing = frozenset(x.name for group, one in zip(_grouped(lines), probes) if one[0] is None for x in group)
    chosen = [line for line in lines if promoted is None or line.name in promoted]
    ready = {name for name, f in fit.items() if f.word is None} if promoted is not None else set()
    keep = decision.keep if decision.probe == 0 and isinstance(decision.keep, int) else None
    held = {line.name: words for line in lines if (words := withheld(evidence, line))}
    family = _families(evidence, chosen, ready, held, keep)
    missing = needed if promoted is None else needed | _missing(evidence, chosen, fit, family)
    order = {name: i for i, name in enumerate(evidence.specs)}
    ordered = tuple((a, evidence.seeds[i]) for i, a in sorted(missing, key=lambda spot: (spot[0], order[spot[1]])))
    return ReplayedStudy(evidence, lines, fit, held, promoted, probed, family, ordered, probing)


def _arm_lines(evidence: Evidence) -> tuple[Line, ...]:
    return tuple(
        Line(a.name, ((a.name, 1.0), (ref, -1.0)), ref, a.shares_weights, a.family, a.same_as)
        for a in evidence.arms
        for ref in (evidence.reference(a.name),)
    )


def interactions(evidence: Evidence, factorials: Sequence[Factorial]) -> tuple[Line, ...]:
    """Return the interactions of two as places in the family; one that two factorials have takes one place."""
    crossings, seen = list[Line](), dict[frozenset[tuple[str, float]], str]()
    for f in factorials:
        for one in f.contrasts(2):
            specs = [evidence.specs[arm] for arm in one.line.arms if arm != f.reference]
            first = seen.setdefault(frozenset(one.line.terms), one.line.name)
            crossings.append(
                replace(
                    one.line,
                    shares_weights=all(spec.shares_weights for spec in specs),
                    family=f.families.get(one.label, max(spec.family for spec in specs)),
                    same_as="" if first == one.line.name else first,
                )
            )
    return tuple(crossings)


def withheld(evidence: Evidence, line: Line) -> frozenset[str]:
    """Withhold what flatters: a cell that diverged once looks better than it is, and so does what it is added to."""
    once = [divergences(evidence, a, line.reference, range(len(evidence.seeds))).once for a, _ in line.terms]
    return frozenset("better" if x > 0 else "worse" for (_, x), lost in zip(line.terms, once, strict=True) if lost)


def of_line(evidence: Evidence, line: Line) -> list[Divergences]:
    """Return the divergences of each of the line's arms against its reference, over every seed."""
    everywhere = range(len(evidence.seeds))
    return [divergences(evidence, a, line.reference, everywhere) for a in line.arms if a != line.reference]


def _grouped(lines: Iterable[Line]) -> list[list[Line]]:
    """Group the lines by family, in the order in which the families are met."""
    groups: dict[int, list[Line]] = {}
    for line in lines:
        groups.setdefault(line.family, []).append(line)
    return list(groups.values())


def _families(evidence: Evidence, lines: Sequence[Line], ready: set[str], held: Withheld, keep: int | None) -> Family:
    """Replay every family by itself, so that arms added later change no word of the earlier ones.

    Its size counts contrasts: lines that repeat one another once, one that repeats the baseline not at all.
    """
    parts = []
    for group in _grouped(lines) or [[]]:
        size = len({line.place for line in group} - {evidence.baseline})
        parts.append(replay(evidence, group, ready, held, size, keep))
    standings = {name: standing for part in parts for name, standing in part.standings.items()}
    sizes = {name: size for part in parts for name, size in part.sizes.items()}
    return Family(standings, sizes, parts[0].looks, parts[0].weights)


def _fitness(evidence: Evidence, line: Line, places: Sequence[int]) -> Fitness:
    """Return the fitness of an arm against its reference; of a contrast, by its cells."""
    if (spec := evidence.specs.get(line.name)) is not None:
        return fitness(evidence, spec, line.reference, places)
    return of_cells(evidence, line.arms[1:], line.reference, places)


def _promote(
    evidence: Evidence, lines: Sequence[Line], bank: Bank | None
) -> tuple[frozenset[str] | None, dict[str, Sample], set[tuple[int, str]]]:
    """Return who goes on after the probe (None: unknown yet), the probe's differences, and the missing probe runs.

    Fitness is taken from the probe seeds alone: a fault on a later seed must not promote another arm after the fact.
    """
    decision = evidence.decision
    places = range(decision.probe)
    if decision.probe == 0:
        return frozenset(line.name for line in lines), {}, set()
    fits = {line.name: _fitness(evidence, line, places) for line in lines}
    probed = {line.name: sample_of(evidence, line, evidence.common(line.arms, places)) for line in lines}
    running = [line for line in lines if fits[line.name].word is None or fits[line.name].curable]
    needed = {(i, a) for line in running for a in line.arms for i in places if evidence.status[a][i] == "absent"}
    if needed:
        return None, probed, needed
    deltas = {line.name: probed[line.name].d for line in lines if fits[line.name].word is None}
    if decision.keep is None:
        return frozenset(name for name, d in deltas.items() if d is not None), probed, set()
    if isinstance(decision.keep, str):
        bound = -2 * (bank.sd if bank else math.inf) / math.sqrt(decision.probe)
        return frozenset(name for name, d in deltas.items() if d is not None and d <= bound), probed, set()
    own = {name: sample.d for name, sample in probed.items()}
    return frozenset(lowest({name: evidence.to_baseline(own, name) for name in deltas}, decision.keep)), probed, set()


def _missing(
    evidence: Evidence, lines: Sequence[Line], fit: dict[str, Fitness], family: Family
) -> set[tuple[int, str]]:
    """List (place, arm) still to run up to the earliest look that some open line has not reached.

    A line that is invalid only because nothing is done yet goes on to the first look: one diverged baseline at the
    first seed must not end a study, nor may the answer depend on which run came back first. For the same reason an unstable
    line ends the look that it has begun.
    """
    decision = evidence.decision
    numbers = looks(decision.start, decision.at_most)
    waiting: list[tuple[int, Line]] = []
    for line in lines:
        state = fit[line.name]
        if not (family.standings[line.name].waits or state.curable or state.word == "unstable"):
            continue
        due = numbers[:1] if state.curable else _begun(evidence, line, numbers) if state.word else numbers
        for number in due:
            if not evidence.ended(line.arms, range(decision.probe, decision.probe + number)):
                waiting.append((number, line))
                break
    if not waiting:
        return set()
    earliest = min(number for number, _ in waiting)
    places = range(decision.probe, decision.probe + earliest)
    lines = [line for number, line in waiting if number == earliest]
    return {(i, a) for line in lines for a in line.arms for i in places if evidence.status[a][i] == "absent"}


def _begun(evidence: Evidence, line: Line, numbers: Sequence[int]) -> Sequence[int]:
    """Return the looks up to the one that the line's own arms have begun."""
    probe, own = evidence.decision.probe, [a for a in line.arms if a != line.reference]
    begun = [
        i - probe for i in range(probe, len(evidence.seeds)) if any(evidence.status[a][i] != "absent" for a in own)
    ]
    return [number for k, number in enumerate(numbers) if begun and (k == 0 or numbers[k - 1] <= begun[-1])]
