"""Looks, the share of alpha that each look gets, and the cached quantiles of the t distribution."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

from scipy import special


@lru_cache(maxsize=4096)
def looks(start: int, at_most: int) -> tuple[int, ...]:
    """Return the planned numbers of seeds at which the study is judged: start, maybe a geometric middle, at_most."""
    if start == at_most:
        return (start,)
    if at_most > 2 * start:
        return (start, (math.isqrt(4 * start * at_most) + 1) // 2, at_most)
    return (start, at_most)


@lru_cache(maxsize=4096)
def weights(start: int, at_most: int) -> tuple[float, ...]:
    """Return the share of alpha of each look, quadratic in the number of seeds; 0 for a look at one seed."""
    numbers = looks(start, at_most)
    spent = [0, *((n * n if n >= 2 else 0) for n in numbers)]
    return tuple((after - before) / (at_most * at_most) for before, after in pairwise(spent))


@lru_cache(maxsize=65536)
def t_isf(q: float, df: float) -> float:
    """Return the upper quantile of the t distribution; inf at q = 0."""
    return math.inf if q <= 0 else float(-special.stdtrit(df, q))


def t_cdf(x: float, df: float) -> float:
    """Return the distribution function of t; the upper tail is t_cdf(-x, df), without cancellation."""
    if math.isinf(x):
        return 0.0 if x < 0 else 1.0
    return float(special.stdtr(df, x))


def z_isf(q: float) -> float:
    """Return the upper quantile of the normal distribution."""
    return float(-special.ndtri(q))


def f_two_sided(ratio: float, df_above: float, df_below: float) -> float:
    """Return the two-sided p of a variance ratio."""
    return 2 * min(float(special.fdtrc(df_above, df_below, ratio)), float(special.fdtr(df_above, df_below, ratio)))
