"""Does `ablab trial` keep what it should? Simulated changes, lived run by run by the command's rule, 500 trials a cell.

    python bench/trial_simulations.py [--trials 500]

A trial: baseline and candidate, at most eight seeds a side, looks 3/5/8. The sd of a pair's difference is 1, and a share rho
of a run's variance is its seed's. It ends when the word is settled or the seeds are used up; in two cells also when time is up,
after a number of runs drawn evenly from none to all. A loop: ten changes one after another, each on what was kept before it,
whose runs are taken as they are. Bounds, each with two standard errors: a change that does nothing gets a word (better or
worse) in at most alpha of trials and is kept (exit code 0) in at most half of that, also in a loop and where time ends; one
that pays is kept as often as was planned, to five points, where time does not end first; one for the worse is kept no more
often than one that does nothing. Exit code 1 if a bound fails.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ablab.launch.trial import CANDIDATE, START
from ablab.verdict import ArmSpec, Decision, RunScore, judge, power, wanted, weights

SEEDS, ALPHA, LEVEL, LOOP = 8, 0.05, 100.0, 10
SIDES = ("baseline", CANDIDATE)
Runs = Mapping[str, Sequence[float]]  # of each side, the metric of every seed


@dataclass(frozen=True)
class Cell:
    """One kind of change: its true effect and `matters`, both in sd of a pair's difference."""

    effect: float
    rho: float = 0.5
    matters: float = 1.0
    time_ends: bool = False


@dataclass(frozen=True)
class Rates:
    """Shares of trials, and the runs that one took on average."""

    trials: int
    kept: float
    worded: float
    planned: float | None
    runs: float


def lived(runs: Runs, matters: float, most: int | None = None) -> tuple[str, int]:
    """The candidate's word where runs are made as they are wanted, and how many were; most: after which time is up."""
    decision = Decision(stage="s", matters=matters, start=START, at_most=SEEDS)
    arms, made = [ArmSpec(CANDIDATE)], list[RunScore]()
    while missing := wanted(decision, arms, range(SEEDS), made):
        missing = missing if most is None else missing[: most - len(made)]
        if not missing:
            break
        made += [RunScore(side, seed, "done", stages={"s": runs[side][seed]}) for side, seed in missing]
    return judge(decision, arms, range(SEEDS), made).rows[CANDIDATE].word, len(made)


def drawn(rng: np.random.Generator, rho: float, common: np.ndarray, effect: float) -> list[float]:
    """The metric of every seed of one side."""
    own = math.sqrt(1 - rho) * rng.standard_normal(SEEDS)
    noise = (math.sqrt(rho) * common + own) / math.sqrt(2 * (1 - rho))
    return list(map(float, LEVEL + noise + effect))


def simulate(cell: Cell, trials: int, seed: int) -> Rates:
    """Live every trial of a cell once."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    kept = worded = spent = 0
    for _ in range(trials):
        common = rng.standard_normal(SEEDS)
        runs = {side: drawn(rng, cell.rho, common, cell.effect * (side == CANDIDATE)) for side in SIDES}
        most = int(rng.integers(0, 2 * SEEDS + 1)) if cell.time_ends else None
        word, number = lived(runs, cell.matters, most)
        kept += word == "better"
        worded += word in ("better", "worse")
        spent += number
    planned = None
    if cell.effect < 0 and not cell.time_ends:
        planned = power(cell.effect, 1.0, SEEDS, weights(START, SEEDS)[-1], 1, ALPHA)
    return Rates(trials, kept / trials, worded / trials, planned, spent / trials)


def loop(trials: int, seed: int, rho: float = 0.5, matters: float = 1.0) -> Rates:
    """Live loops of changes that all do nothing; what is kept is the next one's baseline, with the runs that got it kept."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    kept = worded = spent = 0
    for _ in range(loops := math.ceil(trials / LOOP)):
        common = rng.standard_normal(SEEDS)
        best = drawn(rng, rho, common, 0.0)
        for _ in range(LOOP):
            candidate = drawn(rng, rho, common, 0.0)
            word, number = lived({SIDES[0]: best, CANDIDATE: candidate}, matters)
            best = candidate if word == "better" else best
            kept += word == "better"
            worded += word in ("better", "worse")
            spent += number
    return Rates(loops * LOOP, kept / (loops * LOOP), worded / (loops * LOOP), None, spent / (loops * LOOP))


def faults(effect: float, found: Rates) -> list[str]:
    """The bounds that a cell breaks, in words."""

    def above(share: float) -> float:
        return share + 2 * math.sqrt(share * (1 - share) / found.trials)

    broken = []
    if effect == 0 and found.worded > above(ALPHA):
        broken.append("words")
    if effect >= 0 and found.kept > above(ALPHA / 2):
        broken.append("kept")
    if found.planned is not None:
        se = math.sqrt(found.planned * (1 - found.planned) / found.trials)
        if abs(found.kept - found.planned) > 0.05 + 2 * se:
            broken.append("power")
    return broken


def cells() -> list[Cell]:
    """Changes that do nothing, that pay and that harm; with a margin of an sd and with one that hardly stops anything."""
    effects = (0.0, -1.0, -1.5, -2.0, 1.5)
    whole = [Cell(effect, rho, matters) for matters in (1.0, 0.1) for rho in (0.0, 0.8) for effect in effects]
    return [*whole, Cell(0.0, time_ends=True), Cell(-2.0, time_ends=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line per cell; 1 if any bound fails."""
    parser = argparse.ArgumentParser(description="simulate `ablab trial`")
    parser.add_argument("--trials", type=int, default=500, help="trials per cell")
    trials = parser.parse_args(arguments).trials
    began, failed = time.monotonic(), 0
    print(f"looks {START}/5/{SEEDS}, alpha {ALPHA}, {trials} trials per cell; kept: exit code 0")
    print(
        f"{'true / s':>9} {'matters':>8} {'rho':>4} {'ends by':>8} {'kept (plan)':>14} {'worded':>7} {'runs':>6}  bounds"
    )
    kinds = [(cell, "time" if cell.time_ends else "word") for cell in cells()] + [(Cell(0.0), "loop")]
    for i, (cell, ends) in enumerate(kinds):
        found = loop(trials, 600) if ends == "loop" else simulate(cell, trials, 500 + i)
        broken = faults(cell.effect, found)
        failed += bool(broken)
        plan = "" if found.planned is None else f" ({found.planned:.3f})"
        print(
            f"{cell.effect:>9g} {cell.matters:>8g} {cell.rho:>4g} {ends:>8} {f'{found.kept:.3f}{plan}':>14} "
            f"{found.worded:>7.3f} {found.runs:>6.2f}  {'FAILED: ' + ', '.join(broken) if broken else 'kept'}",
            flush=True,
        )
    print(f"{failed} of {len(kinds)} lines failed, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
