"""Two groups of independent runs: how many settle it, what a bank of noise adds, and what pairs of equal seeds would say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ablab.verdict.interval import summary
from ablab.verdict.planning import MANY
from ablab.verdict.spending import t_cdf, t_isf, z_isf
from ablab.verdict.visible import POWER, noncentrality, power_at

MOST_D0 = (
    8.0  # runs that a bank weighs at most: one that is 1.5 times too small then errs in 8% of nulls at two runs a side
)
LEAST_D0 = 4.0  # below it configurations differ so much in their noise that the bank gains nothing (error .050, power as alone)


def power_of_groups(effect: float, sd: float, n: int, m: int = 1, alpha: float = 0.05) -> float:
    """Return the chance to show a true difference of two groups of n >= 2 runs each, sd of one run, m comparisons.

    Noncentral t with 2n - 2 degrees of freedom, the one tail on the effect's side at alpha/(2m).
    """
    return power_at(abs(effect) * math.sqrt(n / 2) / sd, 2 * n - 1, alpha / (2 * m))


def visible(sd: float, n: int, m: int = 1, alpha: float = 0.05) -> float:
    """Return the smallest difference of two groups of n >= 2 runs each that is shown with power 0.80."""
    nc = noncentrality(2 * n - 1, alpha / (2 * m))
    assert nc is not None  # all of alpha goes to the one look
    return nc * sd * math.sqrt(2 / n)


def runs_a_side(effect: float, sd: float, m: int = 1, alpha: float = 0.05) -> int | None:
    """Count the fewest runs on each of two sides that show the effect with power 0.80; None beyond a million, or of none."""
    if not (effect and math.isfinite(effect) and sd > 0 and math.isfinite(sd)):
        return None
    lower = 2 * ((z_isf(alpha / (2 * m)) + z_isf(1 - POWER)) * sd / abs(effect)) ** 2
    if lower > MANY:
        return None
    n = max(2, math.floor(lower))
    while power_of_groups(effect, sd, n, m, alpha) < POWER:
        n += 1
    return n


@dataclass(frozen=True)
class GuardedInterval:
    """A second interval, its spread held up by a bank's; no word is read off it."""

    sd: float
    df: float
    t: float
    p: float
    low: float
    high: float


def guarded(delta: float, s2: float, nx: int, ny: int, *, sd0: float, d0: float) -> GuardedInterval | None:
    """Guard a difference of two groups (pooled variance s2) by a bank's (sd0, worth d0 runs); None for d0 < 4 or n < 2.

    s^2 = max(s2, (d sd0^2 + (nx + ny - 2) s2) / (d + nx + ny - 2)), d = min(d0, 8): never below the own spread. Its error
    on real nulls is .03; the shrinkage is Smyth's (2004), the two guards are for a bank that is too small.
    """
    if d0 < LEAST_D0 or nx < 2 or ny < 2:
        return None
    own, d = nx + ny - 2, min(d0, MOST_D0)
    sd = math.sqrt(max(s2, (d * sd0 * sd0 + own * s2) / (d + own)))
    se, df = sd * math.sqrt(1 / nx + 1 / ny), d + own
    t, c = delta / se, t_isf(0.025, df)
    return GuardedInterval(sd, df, t, 2 * t_cdf(-abs(t), df), delta - c * se, delta + c * se)


@dataclass(frozen=True)
class BySeed:
    """Differences at seed numbers that both sides have; None where there are fewer than two, or no spread."""

    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    delta: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    df: int | None = None


def by_seed(x: Mapping[int, float], y: Mapping[int, float], confidence: float = 0.95) -> BySeed:
    """Return the paired t interval over common seed numbers: robustness only; one number in two programs is not one draw."""
    seeds = tuple(sorted(x.keys() & y.keys()))
    differences = tuple(x[seed] - y[seed] for seed in seeds)
    sample = summary(differences, [y[seed] for seed in seeds])
    if sample.d is None or not sample.s:
        return BySeed(seeds, differences, sample.d)
    n = sample.n
    se = sample.s / math.sqrt(n)
    c = t_isf((1 - confidence) / 2, n - 1)
    p = 2 * t_cdf(-abs(sample.d) / se, n - 1)
    return BySeed(seeds, differences, sample.d, sample.d - c * se, sample.d + c * se, p, n - 1)
