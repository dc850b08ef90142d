"""How often runs diverge: a count of seeds with its exact interval, and in words."""

from __future__ import annotations

from scipy import special

from ablab.verdict.rows import Rate


def clopper_pearson(count: int, n: int, alpha: float) -> tuple[float, float]:
    """Return the exact interval of a share seen as `count` of n, at confidence 1 - alpha (Clopper and Pearson 1934)."""
    low = float(special.betaincinv(count, n - count + 1, alpha / 2)) if count > 0 else 0.0
    high = float(special.betaincinv(count + 1, n - count, 1 - alpha / 2)) if count < n else 1.0
    return low, high


def rate(count: int, seeds: int, alpha: float) -> Rate:
    """Return count of seeds with its Clopper-Pearson interval."""
    return Rate(count, seeds, *clopper_pearson(count, seeds, alpha))


def often(rate: Rate) -> str:
    """Write `2 of 5 seeds (40%, interval 5% to 85%)`."""
    return (
        f"{rate.count} of {rate.seeds} seeds ({rate.count / rate.seeds:.0%}, "
        f"interval {rate.low:.0%} to {rate.high:.0%})"
    )
