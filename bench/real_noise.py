"""Does the verdict hold on noise that nobody simulated? Null and planted studies made of public runs, through `judge`.

    python bench/real_noise.py [--studies 1000]

The runs are numbers with their provenance (tests/golden/real_noise.json, written by make_real_noise.py beside it): 1,261
losses of one configuration of modded-nanogpt, and the residuals of openai/parameter-golf's arms around their own means. A
study: a baseline and k arms of eight seeds, looks at 3, 5 and 8, alpha .05; a run is one of these numbers plus the arm's true
difference, in sd of an arm's difference. Drawn without replacement, or as they came, seed by seed and all arms in turn.
Bounds: family error <= alpha + 2 se; frozen intervals cover in at least 94%; power no more than five points below plan or
above it (ten above, under the heavy tails of golf). Cells in real order overlap: their se counts stretches that do not.

Then the shipped bank's second line (`guarded`): its error and what it adds, where it is right, where configurations differ,
where it is too small, and on the 1,261 losses with the row of their family. Exit code 1 if a bound fails.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ablab.judging import noise
from ablab.verdict import ArmSpec, Decision, RunScore, guarded, judge, power, weights
from ablab.verdict.spending import t_isf
from ablab.verdict.two_groups import MOST_D0

GOLDEN = Path(__file__).resolve().parents[1] / "tests/golden/real_noise.json"
SEEDS, LOOKS, ALPHA, COVERS, OFF = 8, (3, 8), 0.05, 0.94, 0.05
HEAVY = 0.10  # of power above the plan, where tails are heavy and most runs lie close together: measured up to .09
ARMS = (1, 3, 7, 20)
LEVEL = 100.0
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Source:
    """Numbers of equal runs, sd 1. ordered: drawn as they came; sds: of configurations, one drawn for each arm instead."""

    name: str
    numbers: Array
    ordered: bool = False
    sds: Array | None = None

    def draw(self, arms: int, studies: int, rng: np.random.Generator) -> Array:
        """Runs of shape (studies, 1 + arms, SEEDS), the sd of a difference of two of them 1 where all spreads are equal."""
        shape = (1 + arms, SEEDS)
        if self.sds is not None:
            drawn = rng.standard_normal((studies, *shape)) * rng.choice(self.sds, (studies, 1 + arms, 1))
        elif self.ordered:
            starts = rng.integers(0, len(self.numbers) - math.prod(shape) + 1, studies)
            drawn = np.stack([self.numbers[at : at + math.prod(shape)].reshape(SEEDS, -1).T for at in starts])
        else:
            picks = (rng.permutation(len(self.numbers))[: math.prod(shape)].reshape(shape) for _ in range(studies))
            drawn = np.stack([self.numbers[one] for one in picks])
        return drawn / math.sqrt(2)

    def independent(self, arms: int, studies: int) -> int:
        """Studies that share no run, where they are drawn in order."""
        return min(studies, len(self.numbers) // (SEEDS * (1 + arms))) if self.ordered else studies


def sources(path: Path = GOLDEN) -> dict[str, Source]:
    """The public numbers, each scaled to sd 1 about 0."""
    held: dict[str, Any] = json.loads(path.read_text())
    losses = np.array(held["modded"]["losses"])
    found = [
        Source("modded, 1,261 runs", _scaled(losses)),
        Source("modded, in real order", _scaled(losses), ordered=True),
    ]
    sds = []
    for one in held["golf"]:
        left = np.concatenate([arm["residuals"] for arm in one["arms"]])
        sds += [arm["sd"] for arm in one["arms"] if len(arm["residuals"]) > 2]
        found.append(Source(f"golf {one['family']} {one['stage']}", _scaled(left)))
    spread = np.array(sds)
    found.append(Source("golf, every arm its own sd", left, sds=spread / math.sqrt(float((spread**2).mean()))))
    return {one.name: one for one in found}


def _scaled(numbers: Array) -> Array:
    return (numbers - numbers.mean()) / numbers.std(ddof=1)


@dataclass(frozen=True)
class Found:
    """Shares over studies; planned: the power of the last look for the one arm with a difference."""

    error: float
    coverage: float
    false_win: float
    power: float | None
    planned: float | None
    seeds: float
    independent: int


def simulate(source: Source, arms: int, effect: float, studies: int, seed: int) -> Found:
    """Judge every study once on all eight seeds; the first arm is truly `effect` better, in sd of a difference."""
    true = np.array([0.0, -effect, *(0.0,) * (arms - 1)])
    runs = LEVEL + source.draw(arms, studies, np.random.Generator(np.random.Philox(key=seed))) + true[:, None]
    decision = Decision(stage="s", matters=1.0, start=LOOKS[0], at_most=LOOKS[1])
    names = ["baseline", *(f"a{i}" for i in range(arms))]
    specs = [ArmSpec(name) for name in names[1:]]
    null = [name for name, e in zip(names[1:], true[1:], strict=True) if e == 0]
    errors = covered = intervals = wins = hits = spent = 0
    for metrics in runs.tolist():
        scores = [RunScore(n, s, "done", stages={"s": y}) for n, ys in zip(names, metrics) for s, y in enumerate(ys)]
        answer = judge(decision, specs, range(SEEDS), scores)
        errors += any(answer.rows[name].word in ("better", "worse") for name in null)
        wins += answer.winner in null and answer.decided_by == "loss"
        hits += bool(effect) and answer.rows["a0"].word == "better"
        for name, e in zip(names[1:], true[1:], strict=True):
            row = answer.rows[name]
            spent += row.seeds
            if row.low is not None and row.high is not None:
                intervals += 1
                covered += row.low <= e <= row.high
    planned = power(effect, 1.0, SEEDS, weights(*LOOKS)[-1], arms, ALPHA) if effect else None
    return Found(
        errors / studies, covered / max(1, intervals), wins / studies, hits / studies if effect else None, planned,
        spent / (studies * arms), source.independent(arms, studies),
    )  # fmt: skip


def faults(source: Source, found: Found, studies: int) -> list[str]:
    """The bounds that a cell breaks; each is allowed two standard errors."""

    def se(share: float) -> float:
        return math.sqrt(share * (1 - share) / found.independent)

    broken = []
    if found.error > ALPHA + 2 * se(ALPHA):
        broken.append("family error")
    if found.coverage < COVERS - (2 * se(COVERS) if found.independent < 1000 else 0.0):
        broken.append("coverage")
    if found.power is not None and found.planned is not None:
        allowed, off = OFF + 2 * se(found.planned), found.power - found.planned
        above = allowed - OFF + HEAVY if source.name.startswith("golf") else allowed
        if not -allowed <= off <= above:
            broken.append("power")
    return broken


@dataclass(frozen=True)
class Truth:
    """What a bank of sd 1 meets. sd: the true one beside it; d0: how much configurations differ (infinite: not at all)."""

    name: str
    sd: float
    d0: float
    most: float  # of the error at two runs a side, two standard errors aside

    def spreads(self, studies: int, rng: np.random.Generator) -> Array:
        """The true sd of each study's two sides."""
        if math.isinf(self.d0):
            return np.full(studies, self.sd)
        return self.sd * np.sqrt(self.d0 / rng.chisquare(self.d0, studies))


TRUTHS = (
    Truth("right, all alike", 1.0, math.inf, 0.05),
    Truth("right, d0 9", 1.0, 9.0, 0.05),
    Truth("1.5 x too small", 1.5, math.inf, 0.09),
    Truth("2 x too small", 2.0, math.inf, 0.13),
)


def second_line(truth: Truth, n: int, effect: float, studies: int, seed: int) -> tuple[float, float]:
    """Share of comparisons of n runs a side that (the own spread, the bank's line) show apart; effect in the bank's sd.

    Of one run a side the own spread shows nothing, and the bank's z is held against t with min(d0, 8) degrees of freedom.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    sd = truth.spreads(studies, rng)
    sides = rng.standard_normal((2, studies, n)) * sd[None, :, None]
    delta = sides[0].mean(1) - sides[1].mean(1) - effect
    if n == 1:
        return 0.0, float((np.abs(delta) / math.sqrt(2) > t_isf(0.025, min(truth.d0, MOST_D0))).mean())
    pooled = sides.var(2, ddof=1).mean(0)
    own = np.abs(delta) > t_isf(0.025, 2 * n - 2) * np.sqrt(2 * pooled / n)
    return float(own.mean()), _apart(delta, pooled, n, sd0=1.0, d0=truth.d0)


def _apart(delta: Array, pooled: Array, n: int, *, sd0: float, d0: float) -> float:
    found = [guarded(d, s2, n, n, sd0=sd0, d0=d0) for d, s2 in zip(delta.tolist(), pooled.tolist(), strict=True)]
    return float(np.mean([one is not None and one.p < 0.05 for one in found]))


def family_null(n: int, studies: int, seed: int) -> tuple[float, float]:
    """The 1,261 losses against themselves, n a side: errors of the own spread and of the line by modded_124m's row."""
    row = noise.level("modded_124m_2025", "final", "nats_per_token")
    assert row is not None
    losses = np.array(json.loads(GOLDEN.read_text())["modded"]["losses"])
    rng = np.random.Generator(np.random.Philox(key=seed))
    sides = np.stack([losses[rng.permutation(len(losses))[: 2 * n]].reshape(2, n) for _ in range(studies)], 1)
    delta, pooled = sides[0].mean(1) - sides[1].mean(1), sides.var(2, ddof=1).mean(0)
    own = np.abs(delta) > t_isf(0.025, 2 * n - 2) * np.sqrt(2 * pooled / n)
    return float(own.mean()), _apart(delta, pooled, n, sd0=row["prior_sd"], d0=noise.weight(row))


def _verdicts(studies: int, say: Callable[[str], None]) -> int:
    failed = 0
    say(f"looks 3/5/8, alpha {ALPHA}, {studies} studies a cell; +- two standard errors; power (plan)")
    for source in sources().values():
        for arms in ARMS:
            most = len(source.numbers) // SEEDS - 1
            if arms > most and source.sds is None:
                say(f"{source.name}, {arms} arms: {len(source.numbers)} runs are too few")
                continue
            for effect in (0.0,) if source.ordered or source.sds is not None else (0.0, 0.5, 1.0, 2.0):
                found = simulate(source, arms, effect, studies, seed=int(100 * effect) + arms)
                broken = faults(source, found, studies)
                failed += bool(broken)
                error = 2 * math.sqrt(ALPHA * (1 - ALPHA) / found.independent)
                shown = f" power {found.power:.3f} ({found.planned:.3f})" if found.power is not None else ""
                say(
                    f"{source.name}, {arms} arms, true {effect:g} s: family error {found.error:.3f} +-{error:.3f}, covers "
                    f"{found.coverage:.3f}, false win {found.false_win:.3f}, seeds {found.seeds:.1f}{shown}  "
                    f"{'FAILED: ' + ', '.join(broken) if broken else 'kept'}"
                )
    return failed


def _lines(studies: int, say: Callable[[str], None]) -> int:
    failed = 0
    say(
        f"two runs or three a side: shares shown apart by the own spread -> with the bank's line, {studies} comparisons"
    )
    for truth in TRUTHS:
        for n in (1, 2, 3):
            (_, error), *shown = (second_line(truth, n, effect, studies, seed=n) for effect in (0.0, 2.0, 3.0))
            kept = n == 1 or error <= truth.most + 2 * math.sqrt(truth.most * (1 - truth.most) / studies)
            failed += not kept
            gained = ", ".join(f"{e} sd {own:.2f} -> {line:.2f}" for e, (own, line) in zip((2, 3), shown, strict=True))
            say(f"bank {truth.name}, n = {n}: error {error:.3f}, {gained}  {'kept' if kept else 'FAILED'}")
    for n in (2, 3):
        own, line = family_null(n, studies, seed=n)
        say(f"1,261 losses of one configuration by its family's row, n = {n}: error {own:.3f} -> {line:.3f}")
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line per cell; 1 if any bound fails."""
    parser = argparse.ArgumentParser(description="the verdict on noise of public runs")
    parser.add_argument("--studies", type=int, default=1000, help="studies per cell")
    studies = parser.parse_args(arguments).studies
    began = time.monotonic()

    def say(text: str) -> None:
        print(text, flush=True)

    failed = _verdicts(studies, say) + _lines(5 * studies, say)
    print(f"{failed} lines failed, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
