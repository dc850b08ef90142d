"""The one interval, and the word that is read off it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ablab.verdict.documents import Spread
from ablab.verdict.spending import t_cdf, t_isf

FOR_THESE = "for these weights"
ZERO = 1e-9  # a spread this small relative to the metric is no spread: arithmetic noise of two equal programs


@dataclass(frozen=True)
class Sample:
    """n differences: mean d, standard deviation s (None below two), and the metric's size for the zero test."""

    n: int
    d: float | None
    s: float | None
    scale: float = 0.0


@dataclass(frozen=True)
class Interval:
    """A word with the numbers it was read off; None where there is no interval."""

    word: str
    d: float | None
    s: float | None
    n: int
    m: int
    w: float
    c: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    note: str = ""

    @property
    def excludes_zero(self) -> bool:
        """A difference was shown, of whatever size."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def summary(differences: Sequence[float], reference: Sequence[float]) -> Sample:
    """Return mean and sd (ddof 1) of the differences; scale = mean |metric| of the reference over the same pairs.

    Overflow (finite but absurd metrics) leaves d or s None: no interval is better than a wrong one.
    """
    n = len(differences)
    if n == 0:
        return Sample(0, None, None)
    d = sum(differences) / n
    scale = sum(abs(y) for y in reference) / n
    if not (math.isfinite(d) and math.isfinite(scale)):
        return Sample(n, None, None)
    if n == 1:
        return Sample(1, d, None, scale)
    s = math.sqrt(sum((x - d) * (x - d) for x in differences) / (n - 1))
    return Sample(n, d, s if math.isfinite(s) else None, scale)


def word_of(low: float, high: float, matters: float) -> str:
    """Decide a word: the only place that does."""
    if -matters < low and high < matters:
        return "equivalent"
    if high < 0:
        return "better"
    return "worse" if low > 0 else "inconclusive"


def read(sample: Sample, *, matters: float, alpha: float, w: float, m: int) -> Interval:
    """Read the t interval of the mean difference at level alpha*w/m, and its word."""
    n, d, s = sample.n, sample.d, sample.s
    if n < 2 or w <= 0 or d is None or s is None:
        return Interval("inconclusive", d, s, n, m, w)
    c = t_isf(alpha * w / (2 * m), n - 1)
    zero = ZERO * sample.scale
    if s <= zero:
        if abs(d) <= zero:
            return Interval("equivalent", 0.0, s, n, m, w, c, 0.0, 0.0, 1.0, "identical scores")
        return Interval("invalid", d, s, n, m, w, note="the same difference at every seed: not independent runs")
    half = c * s / math.sqrt(n)
    p = min(1.0, 2 * t_cdf(-abs(d) * math.sqrt(n) / s, n - 1) * m / w)
    low, high = d - half, d + half
    return Interval(word_of(low, high, matters), d, s, n, m, w, c, low, high, p)


def read_documents(d: float, spread: Spread, scale: float, *, matters: float, alpha: float, m: int) -> Interval:
    """Read the interval over documents, for arms that share one existing checkpoint: it speaks for these weights only.

    Too few documents, or one that outweighs the others: no interval and no word.
    """
    note, se_doc = FOR_THESE, spread.error
    if se_doc <= ZERO * scale:
        if abs(d) <= ZERO * scale:
            return Interval("equivalent", 0.0, None, 1, m, 1.0, None, 0.0, 0.0, 1.0, f"{note}; identical scores")
        return Interval("invalid", d, None, 1, m, 1.0, note="the same difference at every document: not a measurement")
    if not spread.enough:
        return Interval("inconclusive", d, None, 1, m, 1.0, note=note)
    c = t_isf(alpha / (2 * m), spread.df)
    p = min(1.0, 2 * t_cdf(-abs(d) / se_doc, spread.df) * m)
    low, high = d - c * se_doc, d + c * se_doc
    return Interval(word_of(low, high, matters), d, None, 1, m, 1.0, c, low, high, p, note)


def outliers(differences: Sequence[float]) -> list[tuple[int, float]]:
    """List places (and Bonferroni p) of differences that the others do not expect; flagged, never dropped. Needs n >= 4."""
    n = len(differences)
    flagged: list[tuple[int, float]] = []
    if n < 4:
        return flagged
    for i, x in enumerate(differences):
        others = [y for j, y in enumerate(differences) if j != i]
        mean = sum(others) / (n - 1)
        spread = math.sqrt(sum((y - mean) * (y - mean) for y in others) / (n - 2)) * math.sqrt(1 + 1 / (n - 1))
        gap = abs(x - mean)
        if gap == 0 or not (math.isfinite(spread) and math.isfinite(gap)):
            continue
        p = n * 2 * t_cdf(-gap / spread, n - 2) if spread > 0 else 0.0
        if p < 0.01:
            flagged.append((i, p))
    return flagged
