"""2x2 factorials: two main effects and the interaction, each judged like an arm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ablab.verdict.evidence import Evidence
from ablab.verdict.family import Line

READING = {"better": "together more than the sum", "worse": "they interfere", "equivalent": "additive within matters"}


@dataclass(frozen=True)
class Factorial:
    """Four arms: y00 neither change, y10 the first, y01 the second, y11 both. a and b name the two changes.

    The three contrasts take the places of the three cells in the family; their rows are called NAME.a, NAME.b, NAME.I.
    """

    y00: str
    y10: str
    y01: str
    y11: str
    name: str = "factorial"
    a: str = "A"
    b: str = "B"

    @property
    def cells(self) -> tuple[str, str, str]:
        """The three cells that are not the reference."""
        return (self.y10, self.y01, self.y11)

    @property
    def interaction(self) -> str:
        """The name of the interaction's row."""
        return f"{self.name}.I"

    def lines(self) -> list[Line]:
        """The contrasts as places in the family: weights on the four cells, per seed."""
        main_a = ((self.y10, 0.5), (self.y00, -0.5), (self.y11, 0.5), (self.y01, -0.5))
        main_b = ((self.y01, 0.5), (self.y00, -0.5), (self.y11, 0.5), (self.y10, -0.5))
        both = ((self.y11, 1.0), (self.y10, -1.0), (self.y01, -1.0), (self.y00, 1.0))
        return [
            Line(f"{self.name}.{self.a}", main_a, self.y00),
            Line(f"{self.name}.{self.b}", main_b, self.y00),
            Line(self.interaction, both, self.y00),
        ]


def check(evidence: Evidence, factorials: Sequence[Factorial]) -> None:
    """Raises ValueError if a cell is no arm, is used twice, or if arms are selected on the way (keep, probe)."""
    used: set[str] = set()
    lines = _names(factorials)
    for f in factorials:
        cells = (f.y00, *f.cells)
        if unknown := [c for c in cells if c not in evidence.specs]:
            raise ValueError(f"factorial.{f.name}: {', '.join(unknown)} is no arm; known: {', '.join(evidence.specs)}")
        if len(set(cells)) < 4 or used & set(f.cells) or evidence.baseline in f.cells:
            raise ValueError(
                f"factorial.{f.name}: the cells {', '.join(cells)} must be four different arms, in one "
                "factorial only, and the baseline may only be the first"
            )
        if any(evidence.reference(c) != f.y00 for c in f.cells):
            raise ValueError(f"factorial.{f.name}: every cell must have {f.y00} as its reference")
        used |= set(f.cells)
    if len(set(lines)) < len(lines) or set(lines) & set(evidence.specs):
        raise ValueError("factorial: two rows would have one name; give each factorial its own name")
    if factorials and (evidence.decision.keep is not None or evidence.decision.probe):
        raise ValueError("factorial: keep and probe would drop cells, and a contrast needs all four; remove them")


def _names(factorials: Iterable[Factorial]) -> list[str]:
    return [line.name for f in factorials for line in f.lines()]
