"""Does a ladder keep its promises? Effects over compute of ten shapes, extrapolated as `ablab ladder` does.

    python bench/ladder_simulations.py [--studies 1000]

A study: 3 to 5 rungs .6 decades apart, 3 to 8 seeds each, an sd of one pair of .005 where the effect at the bottom is .03, and
matters .005. The target lies a quarter of the ladder beyond the top rung, as far as a word may. Exact: the shape is the truth.
Off: at every rung and at the target the truth is another 5% away from it. Bounds, each with two standard errors: the interval
covers the truth in at least 95% for all shapes but the late crossing, which no form follows and which is covered in at least
80%, and a wrong word is said in at most 5% of the studies of every shape. A word is wrong that names a side of zero on which
the truth is not, `reverses` where no lower rung's truth is on the other side, or `fades` where it is at least matters. Exit
code 1 if a bound fails.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ablab.verdict import ladder
from ablab.verdict.ladder import Reached, Rung

ALPHA, STEP, SD, MATTERS, OFF = 0.05, 0.6, 0.005, 0.005, 0.05
DESIGNS = ((3, 3, 3), (5, 4, 4), (8, 8, 8), (8, 5, 5, 3), (3, 5, 5, 8), (5, 5, 5, 5, 5))
Shape = Callable[[float, float], float]  # (x, the top rung's x) -> the effect
SHAPES: dict[str, Shape] = {
    "null": lambda x, top: 0.0,
    "constant": lambda x, top: -0.03,
    "power -.15": lambda x, top: -0.03 * 10 ** (-0.15 * x),
    "power -.5": lambda x, top: -0.03 * 10 ** (-0.5 * x),
    "growing": lambda x, top: -0.03 * 10 ** (0.15 * x),
    "linear crossing": lambda x, top: -0.03 * (1 - x / (0.8 * top)),
    "plateau": lambda x, top: -0.01 - 0.02 * math.exp(-x / 0.5),
    "late crossing": lambda x, top: -0.008 * (1 - (x / (1.1 * top)) ** 2),
    "turning": lambda x, top: -0.01 + 0.02 * x / top,
    "at the top alone": lambda x, top: -0.03 * (x >= top),
}
LATE, LATE_COVERS = "late crossing", 0.80  # measured .835 at the least
SHARP: Shape = lambda x, top: -0.03 * (1 - (x / (1.2 * top)) ** 2)  # noqa: E731  no promise: nothing below the top tells of it


@dataclass(frozen=True)
class Found:
    """Shares over the studies of one shape and design."""

    studies: int
    covered: float
    wrong: float
    holds: float
    reverses: float = 0.0

    def se(self, share: float) -> float:
        """Standard error of a share."""
        return math.sqrt(share * (1 - share) / self.studies)


def study(
    shape: Shape, seeds: Sequence[int], off: float, rng: np.random.Generator, reach: float = ladder.SPOKEN
) -> tuple[list[Rung], float, list[float]]:
    """The rungs of one study as they are measured, the place of the target, and the truth on every rung and there."""
    x = [STEP * k for k in range(len(seeds))]
    at = x[-1] + reach * (x[-1] - x[0])
    truths = [shape(place, x[-1]) * (1 + off * rng.standard_normal()) for place in (*x, at)]
    made = [measured(place, d + SD * rng.standard_normal(n)) for place, d, n in zip(x, truths, seeds)]
    return made, at, truths


def measured(x: float, differences: npt.NDArray[np.float64]) -> Rung:
    """The rung of these differences."""
    return Rung(x, float(differences.mean()), float(differences.std(ddof=1)), len(differences))


def is_wrong(found: Reached, truths: Sequence[float]) -> bool:
    """Whether the word says of the truth what is not so; truths: of every rung, and the target's last."""
    *rungs, truth = truths
    if found.word in ("holds", "reverses"):
        side = -1.0 if found.high < 0 else 1.0
        turned = found.word == "holds" or any(side * one < 0 for one in rungs[:-1])
        return side * truth <= 0 or not turned
    return found.word == "fades" and abs(truth) >= MATTERS


def simulate(name: str, seeds: Sequence[int], off: float, studies: int, seed: int) -> Found:
    """Judge so many studies of a shape."""
    rng, hits = np.random.Generator(np.random.Philox(key=seed)), np.zeros(4)
    for _ in range(studies):
        made, at, truths = study(SHAPES[name], seeds, off, rng)
        found = ladder.extrapolate(made, at, matters=MATTERS, alpha=ALPHA)
        said = (found.word == "holds", found.word == "reverses")
        hits += (found.low <= truths[-1] <= found.high, is_wrong(found, truths), *said)
    return Found(studies, *(float(share) for share in hits / studies))


def sharp(seeds: Sequence[int], studies: int, seed: int) -> tuple[float, float, float]:
    """The late crossing that is seen well: (coverage, wrong words, wrong ones that the bend of the rungs was said beside)."""
    rng, hits = np.random.Generator(np.random.Philox(key=seed)), np.zeros(3)
    for _ in range(studies):
        made, at, truths = study(SHARP, seeds, 0.0, rng)
        found = ladder.extrapolate(made, at, matters=MATTERS, alpha=ALPHA)
        wrong = is_wrong(found, truths)
        hits += (found.low <= truths[-1] <= found.high, wrong, wrong and ladder.bends(made, ALPHA))
    covered, wrong_share, told = hits / studies
    return float(covered), float(wrong_share), float(told)


def faults(name: str, found: Found) -> list[str]:
    """The bounds that a row breaks, in words."""
    broken = []
    least = LATE_COVERS if name == LATE else 1 - ALPHA
    if found.covered < least - 2 * found.se(least):
        broken.append("coverage")
    if found.wrong > ALPHA + 2 * found.se(ALPHA):
        broken.append("wrong words")
    return broken


def half_way(seeds: Sequence[int], studies: int, seed: int) -> tuple[float, float]:
    """At twice the reach: coverage of the late crossing, and how often a word would be wrong that is not said there."""
    rng, hits = np.random.Generator(np.random.Philox(key=seed)), np.zeros(2)
    for _ in range(studies):
        made, at, truths = study(SHAPES[LATE], seeds, 0.0, rng, ladder.SHOWN)
        found = ladder.extrapolate(made, at, matters=MATTERS, alpha=ALPHA)
        spoken = replace(found, word=ladder.word_of(found.low, found.high, made[-1].d, MATTERS))
        hits += (found.low <= truths[-1] <= found.high, is_wrong(spoken, truths))
    covered, wrong = hits / studies
    return float(covered), float(wrong)


def grown(name: str, start: Sequence[int], total: int, studies: int, seed: int) -> Found:
    """From `start` seeds on, each next one where `next_seed` says that it tells most, up to `total` of them."""
    rng, hits = np.random.Generator(np.random.Philox(key=seed)), np.zeros(3)
    x = [STEP * k for k in range(len(start))]
    at = x[-1] + ladder.SPOKEN * (x[-1] - x[0])
    truths = [SHAPES[name](place, x[-1]) for place in (*x, at)]
    for _ in range(studies):
        pool = [SHAPES[name](place, x[-1]) + SD * rng.standard_normal(total) for place in x]
        counts = [*start]
        while sum(counts) < total:
            made = [measured(place, own[:n]) for place, own, n in zip(x, pool, counts)]
            gains = ladder.next_seed(made, at, alpha=ALPHA)
            counts[max(range(len(gains)), key=gains.__getitem__)] += 1
        made = [measured(place, own[:n]) for place, own, n in zip(x, pool, counts)]
        found = ladder.extrapolate(made, at, matters=MATTERS, alpha=ALPHA)
        hits += (found.low <= truths[-1] <= found.high, is_wrong(found, truths), found.word == "holds")
    return Found(studies, *(float(share) for share in hits / studies))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line per shape, design and kind of truth; 1 if any bound fails."""
    parser = argparse.ArgumentParser(description="simulate the ladder")
    parser.add_argument("--studies", type=int, default=1000, help="studies per line")
    studies = parser.parse_args(arguments).studies
    began, failed, lines = time.monotonic(), 0, 0
    print(f"rungs {STEP} decades apart, sd {SD}, matters {MATTERS}, alpha {ALPHA}, {studies} studies a line")
    print(f"{'shape':>16} {'seeds':>10} {'truth':>6} {'coverage':>9} {'wrong':>6} {'holds':>6} {'reverses':>9}  bounds")
    for number, (name, seeds) in enumerate((name, seeds) for name in SHAPES for seeds in DESIGNS):
        for off in (0.0, OFF):
            found = simulate(name, seeds, off, studies, seed=2 * number + (off > 0))
            broken = faults(name, found)
            failed, lines = failed + bool(broken), lines + 1
            print(
                f"{name:>16} {','.join(map(str, seeds)):>10} {'off' if off else 'exact':>6} {found.covered:>9.3f} "
                f"{found.wrong:>6.3f} {found.holds:>6.3f} {found.reverses:>9.3f}  "
                f"{'FAILED: ' + ', '.join(broken) if broken else 'kept'}",
                flush=True,
            )
    for seeds in DESIGNS:
        covered, wrong = half_way(seeds, studies, seed=7)
        crossing, said, told = sharp(seeds, studies, seed=8)
        print(
            f"{','.join(map(str, seeds))}: late crossing at twice the reach: covers {covered:.2f}, its word would be wrong in "
            f"{wrong:.2f}; a sharp crossing just beyond the top: covers {crossing:.2f}, wrong {said:.2f}, told of {told:.2f}"
        )
    for name in ("null", "constant", "power -.15"):
        spread = [
            f"{','.join(map(str, seeds))} {simulate(name, seeds, 0.0, studies, seed=8).holds:.2f}"
            for seeds in ((8, 5, 5, 3), (5, 5, 5, 6), (3, 5, 5, 8), (3, 3, 3, 12), (8, 8, 8, 8))
        ]
        by_rule = grown(name, (3, 3, 3, 3), 21, max(1, studies // 4), seed=9)
        print(
            f"{name}, holds by seeds: {'; '.join(spread)}; 21 where the next tells most {by_rule.holds:.2f}", flush=True
        )
    print(f"{failed} of {lines} lines failed, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
