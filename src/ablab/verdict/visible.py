"""What so many pairs can show: the smallest difference that is seen, and the smallest that is called a tie."""

from __future__ import annotations

import math
from functools import lru_cache

from scipy import special

from ablab.verdict.spending import t_isf

POWER = 0.80


def power_at(nc: float, n: float, level: float) -> float:
    """Compute P(T > critical value) for noncentral t with df = n - 1; level is one-sided."""
    c = t_isf(level, n - 1)
    if not math.isfinite(c):
        return 0.0
    value = 1 - float(special.nctdtr(n - 1, nc, c))
    if 0 <= value <= 1:
        return value
    return 1 - float(special.ndtr((c - nc) / math.sqrt(1 + c * c / (2 * (n - 1)))))  # boost gives up far out


@lru_cache(maxsize=16384)
def noncentrality(N: float, level: float, target: float = POWER) -> float | None:
    """Find the noncentrality with the wanted power, by bisection to the last bit; None if no level was given out."""
    c = t_isf(level, N - 1)
    if not math.isfinite(c):
        return None
    low, high = 0.0, 2 * c + 4
    while power_at(high, N, level) < target:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high) or high - low <= 1e-13 * high:
            break
        if power_at(middle, N, level) < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def mde(s: float, N: float, w: float, m: int = 1, alpha: float = 0.05) -> float | None:
    """Return the smallest difference shown with power 0.80 at N >= 2 pairs; None if N < 2 or the look has no alpha."""
    nc = noncentrality(N, alpha * w / (2 * m)) if N >= 2 else None
    return None if nc is None else nc * s / math.sqrt(N)


def smallest_tie(s: float, N: int, w: float, m: int = 1, alpha: float = 0.05) -> float | None:
    """Return the smallest `matters` at which a true zero is called equivalent with power 0.80; None if N < 2."""
    c = t_isf(alpha * w / (2 * m), N - 1) if N >= 2 else math.inf
    return (c + t_isf((1 - POWER) / 2, N - 1)) * s / math.sqrt(N) if math.isfinite(c) else None
