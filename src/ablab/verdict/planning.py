"""What a study can show before and while it runs: power, seeds, chance; from what so many pairs can show."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ablab.verdict.spending import looks, t_cdf, t_isf, weights, z_isf
from ablab.verdict.visible import POWER, mde, power_at, smallest_tie

GIVE_UP = 0.10
MANY = 1_000_000  # beyond this many seeds the normal approximation is exact to far below one seed


def power(e: float, s: float, N: int, w: float, m: int = 1, alpha: float = 0.05) -> float:
    """Return the chance to show a true difference e at one look of N pairs with sd s, weight w, m arms. N >= 2."""
    return power_at(abs(e) * math.sqrt(N) / s, N, alpha * w / (2 * m))


def mde_one_seed(sd: float, m: int = 1, alpha: float = 0.05) -> float:
    """Return the same at one pair, where only a bank's sd is known."""
    return (z_isf(alpha / (2 * m)) + z_isf(1 - POWER)) * sd


def seeds_needed(d: float, s: float, matters: float, w: float, m: int = 1, alpha: float = 0.05) -> int:
    """Count pairs that settle an arm with power 0.80, "different" or "tied", whichever is easier, if d and s are true.

    A plug-in guess: say "about". w = 0 (a study of one seed) counts as one look with all of alpha.
    """
    e = max(abs(d), matters - abs(d))
    level = alpha * (w if w > 0 else 1.0) / (2 * m)
    if s <= 0:
        return 2
    lower = ((z_isf(level) + z_isf(1 - POWER)) * s / e) ** 2 if s / e < 1e100 else math.inf
    if lower > MANY:
        return math.ceil(min(lower, 1e15))
    n = max(2, math.floor(lower))
    while n > 2 and power_at(e * math.sqrt(n - 1) / s, n - 1, level) >= POWER:
        n -= 1
    while power_at(e * math.sqrt(n) / s, n, level) < POWER:
        n += 1
    return n


def chance(
    d: float, s: float, n: int, N: int, w: float, m: int = 1, *, matters: float, alpha: float = 0.05
) -> float | None:
    """Return the chance that the last look (N seeds, weight w) settles an arm with n pairs; None where undefined."""
    if n < 2 or n >= N or w <= 0:
        return None
    half = t_isf(alpha * w / (2 * m), N - 1) * s / math.sqrt(N)
    q = s * math.sqrt(1 / n - 1 / N)
    if q <= 0 or not math.isfinite(q) or not math.isfinite(half):
        return None

    def below(x: float) -> float:
        return t_cdf((x - d) / q, n - 1)

    # 1 - F(x) is taken as the upper tail, so that a small chance keeps its digits
    value = below(-half) + t_cdf((d - half) / q, n - 1)
    inside = min(matters - half, half)
    if matters > half:
        value += below(inside) - below(-inside)
    return min(1.0, max(0.0, value))


def at_most_for(effect: float, s: float = 1.0, arms: int = 1, start: int = 3, alpha: float = 0.05) -> int:
    """Return the smallest at_most whose last look shows the effect with power 0.80 (start, mid, at_most looks)."""
    n = max(2, start)
    while power(effect, s, n, weights(start, n)[-1], arms, alpha) < POWER:
        n += 1
        if n > MANY:
            raise ValueError(f"an effect of {effect} with sd {s} needs more than {MANY} seeds")
    return n


@dataclass(frozen=True)
class Outlook:
    """What a study can show at its last look; sd is the bank's, or 1: then mde and tie are in units of s."""

    looks: tuple[int, ...]
    weights: tuple[float, ...]
    sd: float
    in_units_of_s: bool
    mde: float | None
    tie: float | None
    warning: str


def plan(start: int, at_most: int, arms: int, matters: float, sd: float | None = None, alpha: float = 0.05) -> Outlook:
    """Return looks, MDE and smallest tie of a plan, with a warning if `matters` is too small to be shown as a tie."""
    unit = 1.0 if sd is None else sd
    w = weights(start, at_most)[-1]
    m = max(1, arms)
    tie = smallest_tie(unit, at_most, w, m, alpha)
    warning = ""
    if sd is not None and (tie is None or matters < tie):
        warning = f"a tie of this size cannot be shown with {at_most} seeds"
    return Outlook(
        looks(start, at_most), weights(start, at_most), unit, sd is None, mde(unit, at_most, w, m, alpha), tie, warning
    )
