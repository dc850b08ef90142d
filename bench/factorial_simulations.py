"""Do factorials keep the verdict's promises? Simulated studies through `judge`, 1,000 per design, two minutes on one core.

    python bench/factorial_simulations.py [--studies 1000]

Runs, looks and units are those of bench/verdict_simulations.py: the sd of a cell's paired difference is 1. The family is every
cell and every interaction of two; main effects have no place in it and are counted all the same. Bounds: P(any cell,
interaction or main effect whose truth is 0 is called better or worse, or one is called the wrong way round) <= alpha plus two
standard errors; all intervals that stand at the end, of interactions of three too, cover their truths in at least 94%. Exit
code 1 if a bound fails.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ablab.verdict import ArmSpec, Crossed, Decision, Effect, Factor, Factorial, Row, RunScore, judge

SEEDS, START, ALPHA = 8, 3, 0.05
LEVEL = 100.0  # as of bench/verdict_simulations.py: the metric itself, large against the noise
Truth = dict[tuple[int, ...], float]


@dataclass(frozen=True)
class Design:
    """A factorial of so many levels each. alone: what the first other level of each factor does; beyond: what the first two do
    together besides; both in sd of a paired difference. matters: a small one lets few lines be settled as ties."""

    levels: tuple[int, ...]
    alone: tuple[float, ...] = ()
    beyond: float = 0.0
    noise: str = "normal"
    rho: float = 0.5
    matters: float = 1.0

    @property
    def said(self) -> str:
        """How the table names it."""
        effects = ", ".join(f"{x:g}" for x in self.alone) or "nothing"
        return f"{'x'.join(map(str, self.levels))} {effects}{f' and {self.beyond:+g} together' if self.beyond else ''}"

    def truth(self) -> Truth:
        """Cell -> its true difference to the one without any."""
        alone = (*self.alone, *(0.0,) * (len(self.levels) - len(self.alone)))
        return {
            at: sum(x for x, level in zip(alone, at, strict=True) if level == 1) + self.beyond * (at[:2] == (1, 1))
            for at in itertools.product(*map(range, self.levels))
        }

    def factorial(self) -> Factorial:
        """Its cells, the first the baseline."""
        factors = tuple(Factor(f"f{i}", tuple(map(str, range(n)))) for i, n in enumerate(self.levels))
        return Factorial(
            "f", factors, {at: "c" + "".join(map(str, at)) if any(at) else "baseline" for at in self.truth()}
        )


@dataclass(frozen=True)
class Share:
    """Shares of studies with a false word, with and without main effects, of intervals that hold their truth, and of studies
    in which the first interaction is shown."""

    studies: int
    family_error: float
    cells_and_pairs: float
    coverage: float
    shown: float

    @property
    def bound(self) -> float:
        """alpha plus two standard errors."""
        return ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / self.studies)

    def faults(self) -> list[str]:
        """The bounds that are broken, in words."""
        lowest = 0.94 - (0 if self.studies >= 1000 else 2 * math.sqrt(0.94 * 0.06 / self.studies))
        return ["family error"] * (self.family_error > self.bound) + ["coverage"] * (self.coverage < lowest)


def designs() -> list[Design]:
    """Nulls, one factor, several that add up, and two that interfere or help each other."""
    return [
        Design((2, 2)), Design((2, 2), matters=0.1), Design((2, 2), noise="t5"), Design((2, 2), rho=0.87, matters=0.1),
        Design((3, 2), matters=0.1), Design((2, 2, 2), matters=0.1), Design((4, 4), matters=0.1),
        Design((2, 2), (-1.5,), matters=0.1), Design((2, 2), (-3.0,), matters=0.1), Design((2, 2), (-2.0, -2.0)),
        Design((2, 2), (-2.0, -2.0), 2.5), Design((2, 2), (-1.0, -1.0), -2.5), Design((2, 2, 2), (-2.0, -1.0), 2.5),
        Design((2, 2), (-2.0, 0.0), 4.0, matters=0.1),
    ]  # fmt: skip


def studies_of(design: Design, studies: int, seed: int) -> Iterator[list[RunScore]]:
    """Every run of every study, cell by cell."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    truth, names = design.truth(), design.factorial().cells
    for _ in range(studies):
        shape = (len(truth), SEEDS)
        own, shared = (
            rng.standard_normal(size) if design.noise == "normal" else rng.standard_t(5, size) / math.sqrt(5 / 3)
            for size in (shape, (1, SEEDS))
        )
        runs = math.sqrt(design.rho) * shared + math.sqrt(1 - design.rho) * own
        metrics = (LEVEL + runs / math.sqrt(2 * (1 - design.rho))).tolist()
        yield [
            RunScore(names[at], s, "done", stages={"s": y + truth[at]})
            for at, column in zip(truth, metrics, strict=True)
            for s, y in enumerate(column)
        ]


def simulate(design: Design, studies: int, seed: int) -> Share:
    """Judge every study once, on all its seeds: the replay stops where the looks would have."""
    factorial, truth = design.factorial(), design.truth()
    arms = [ArmSpec(arm) for arm in factorial.cells.values() if arm != "baseline"]
    rule = Decision(stage="s", matters=design.matters, start=START, at_most=SEEDS)
    errors = without = covered = intervals = shown = 0
    for runs in studies_of(design, studies, seed):
        verdict = judge(rule, arms, range(SEEDS), runs, factorials=[factorial])
        rows: list[tuple[Row, float]] = [
            (verdict.rows[arm], truth[at]) for at, arm in factorial.cells.items() if arm != "baseline"
        ]
        found = list(effects(verdict.factorials[0], factorial, truth))
        pairs = [(effect, x) for effect, x in found if effect.order == 2]
        every = [*rows, *found]
        errors += any(false(row.word, x) for row, x in every)
        without += any(false(row.word, x) for row, x in [*rows, *pairs])
        for row, x in every:
            if row.low is not None and row.high is not None:
                intervals += 1
                covered += row.low - 1e-9 <= x <= row.high + 1e-9
        shown += pairs[0][0].word in ("better", "worse")
    return Share(studies, errors / studies, without / studies, covered / max(1, intervals), shown / studies)


def effects(crossed: Crossed, factorial: Factorial, truth: Truth) -> Iterator[tuple[Effect, float]]:
    """(effect, its truth) of every effect."""
    for effect in crossed.effects:
        yield effect, math.fsum(x * truth[at] for at, x in factorial.weights(effect.of))


def false(word: str | None, truth: float) -> bool:
    """Whether a word says of a truth what is not so."""
    side = {"better": -1, "worse": 1}.get(word or "", 0)
    return side != 0 and (abs(truth) < 1e-9 or side * truth < 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line per design; 1 if any bound fails."""
    parser = argparse.ArgumentParser(description="simulate factorials")
    parser.add_argument("--studies", type=int, default=1000, help="studies per design")
    studies = parser.parse_args(arguments).studies
    began, failed = time.monotonic(), 0
    print(f"looks 3/5/8, alpha {ALPHA}, {studies} studies per design; effects in sd of a paired difference")
    print(
        f"{'design':<30} {'rho':>5} {'noise':>7} {'matters':>7} {'error (no mains)':>17} {'coverage':>9} {'I shown':>8}"
    )
    for number, design in enumerate(designs()):
        found = simulate(design, studies, seed=5000 + number)
        broken = found.faults()
        failed += bool(broken)
        error = f"{found.family_error:.3f} ({found.cells_and_pairs:.3f})"
        print(
            f"{design.said:<30} {design.rho:>5g} {design.noise:>7} {design.matters:>7g} {error:>17} {found.coverage:>9.3f} "
            f"{found.shown:>8.3f}  {'FAILED: ' + ', '.join(broken) if broken else 'kept'}",
            flush=True,
        )
    print(f"{failed} of {len(designs())} lines failed, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
