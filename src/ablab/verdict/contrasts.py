"""Factorials: main effects and interactions as differences per seed, linear in the metrics of their cells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ablab.verdict.evidence import Evidence
from ablab.verdict.family import Line
from ablab.verdict.rows import Factor

READING = {"better": "together more than the sum", "worse": "they interfere", "equivalent": "additive within matters"}


@dataclass(frozen=True)
class ContrastLine:
    """The effect of one level (`of`: its factor and itself), or of two or three of different factors together."""

    label: str
    of: tuple[tuple[int, int], ...]
    line: Line

    @property
    def order(self) -> int:
        """1 a main effect, 2 an interaction of two, 3 of three."""
        return len(self.of)


@dataclass(frozen=True)
class Factorial:
    """Every combination of the levels of two factors or more; level 0 of each is the reference's.

    cells: (level of each factor) -> arm. families: label of a pair -> its family, where it is not the latest of its cells'.
    """

    name: str
    factors: tuple[Factor, ...]
    cells: Mapping[tuple[int, ...], str]
    families: Mapping[str, int] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """The cell that has no factor's other levels."""
        return self.cells[(0,) * len(self.factors)]

    def contrasts(self, order: int) -> list[ContrastLine]:
        """Return all effects of so many factors together, a level each, against level 0.

        Each cell weighs the product of its signs (+ at the level, - at level 0) over the number of combinations of the other
        factors' levels: all of these count alike.
        """
        return [
            self._contrast(tuple(zip(which, levels, strict=True)))
            for which in itertools.combinations(range(len(self.factors)), order)
            for levels in itertools.product(*(range(1, len(self.factors[f].levels)) for f in which))
        ]

    def _contrast(self, of: tuple[tuple[int, int], ...]) -> ContrastLine:
        label = " x ".join(f"{self.factors[f].name}={self.factors[f].levels[level]}" for f, level in of)
        terms = tuple((self.cells[at], weight) for at, weight in self.weights(of))
        return ContrastLine(label, of, Line(f"{self.name}: {label}", terms, self.reference))

    def weights(self, of: Sequence[tuple[int, int]]) -> Iterator[tuple[tuple[int, ...], float]]:
        """Return (cell, its weight) of an effect."""
        levels, named = [len(factor.levels) for factor in self.factors], dict(of)
        others = math.prod(n for f, n in enumerate(levels) if f not in named)
        for at in itertools.product(*((named[f], 0) if f in named else range(n) for f, n in enumerate(levels))):
            yield at, math.prod(1 if at[f] else -1 for f in named) / others


def two_by_two(
    y00: str, y10: str, y01: str, y11: str, *, name: str = "factorial", a: str = "A", b: str = "B"
) -> Factorial:
    """Make a factorial of four arms: y00 neither change, y10 the first, y01 the second, y11 both; a, b name the changes."""
    factors = (Factor(a, ("off", "on")), Factor(b, ("off", "on")))
    return Factorial(name, factors, {(0, 0): y00, (1, 0): y10, (0, 1): y01, (1, 1): y11})


def check(evidence: Evidence, factorials: Sequence[Factorial]) -> None:
    """Refuse cells that are missing, no arms or two at one place, and arms that are selected on the way (keep, probe)."""
    for f in factorials:
        place, cells = f"factorial.{f.name}", list(f.cells.values())
        sizes = [len(factor.levels) for factor in f.factors]
        if len(sizes) < 2 or min(sizes) < 2:
            raise ValueError(f"{place}: needs two factors or more, of two levels or more each")
        if set(f.cells) != set(itertools.product(*map(range, sizes))):
            raise ValueError(f"{place}: has {len(cells)} cells of {math.prod(sizes)}; name an arm for each combination")
        if unknown := [c for c in cells if c not in evidence.specs]:
            raise ValueError(f"{place}: {', '.join(unknown)} is no arm; known: {', '.join(evidence.specs)}")
        if doubled := sorted({c for c in cells if cells.count(c) > 1}):
            raise ValueError(f"{place}: {', '.join(doubled)} stands at two places; every cell must be another arm")
        if strays := [c for c in cells if c != f.reference and evidence.reference(c) != f.reference]:
            raise ValueError(f"{place}: {', '.join(strays)} must have {f.reference} as its reference, as every cell")
        if evidence.baseline in cells and f.reference != evidence.baseline:
            raise ValueError(f"{place}: the baseline may only be the cell with level 0 of every factor")
    names = [line.name for line in _lines(factorials)]
    if len(set(names)) < len(names) or set(names) & set(evidence.specs):
        raise ValueError("factorial: two rows would have one name; give each factorial its own name")
    if factorials and (evidence.decision.keep is not None or evidence.decision.probe):
        raise ValueError("factorial: keep and probe would drop cells, and a contrast needs all of them; remove them")


def _lines(factorials: Iterable[Factorial]) -> list[Line]:
    return [one.line for f in factorials for order in (1, 2, 3) for one in f.contrasts(order)]
