"""An effect over compute: what a lever measured at several rungs comes to beyond the top one, and the word that it may carry.

Seeds are not the main error of such an extrapolation, the form is: a line predicts a seventh of what Muon kept over AdamW two
rungs further up. So several forms are fitted, the interval is the hull of theirs, it is widened by a share of the effect, and
it reaches only a little way. What was simulated and held against public ladders stands in docs/ladder.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ablab.verdict.spending import t_cdf, t_isf

Word = Literal["holds", "fades", "reverses", "open"]
FEWEST = 3  # rungs: two fix a line and leave nothing to see whether it is one
ALLOWANCE = 0.10  # of |effect at the top rung|: perfect fits of public ladders miss by up to .07 of it
SPOKEN = 0.25  # of the ladder's length, beyond the top rung: the word is wrong in up to .45 of late crossings at a half
SHOWN = 0.5  # beyond it not even an interval
CURVED = 1.0  # |t| of the curvature from which a parabola is one of the forms
FAR = 2.0  # decades of compute between which an end of the equivalent compute is looked for


@dataclass(frozen=True)
class Rung:
    """The mean d and the sd s of the n paired differences at x = log10 of the training's FLOPs."""

    x: float
    d: float
    s: float
    n: int

    @property
    def v(self) -> float:
        """The variance of the mean."""
        return self.s * self.s / self.n


@dataclass(frozen=True)
class Weighed:
    """A weighted sum of rungs: its value, standard error, Satterthwaite's degrees of freedom and two-sided interval."""

    value: float
    se: float
    df: float
    low: float
    high: float

    @property
    def t(self) -> float:
        """The value in standard errors; infinite without noise."""
        return self.value / self.se if self.se > 0 else math.copysign(math.inf, self.value) if self.value else 0.0

    @property
    def p(self) -> float:
        """Two-sided, of no comparison but its own."""
        return 2 * t_cdf(-abs(self.t), self.df)


@dataclass(frozen=True)
class Fit:
    """What one form says at the target. name: L line, P power, T the top rung as it is, Q parabola."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Reached:
    """The effect at x: the hull of the forms, widened by the allowance. word: None where it is too far away to carry one."""

    x: float
    low: float
    high: float
    forms: tuple[Fit, ...]
    word: Word | None
    reach: float

    @property
    def value(self) -> float:
        """The middle of the forms' values: no estimate, only a place to draw."""
        values = [form.value for form in self.forms]
        return (min(values) + max(values)) / 2


def contrast(rungs: Sequence[Rung], weights: npt.ArrayLike, alpha: float) -> Weighed:
    """Sum weights times means; the weights come from the plan (places of the rungs), never from the data.

    se^2 = sum c^2 v, df = se^4 / sum((c^2 v)^2 / (n - 1)) (Satterthwaite 1946). Rungs must be independent runs.
    """
    c, d = np.asarray(weights, float), np.array([rung.d for rung in rungs])
    parts = c * c * np.array([rung.v for rung in rungs])
    free = np.array([rung.n - 1 for rung in rungs], float)
    variance = float(parts.sum())
    below = float((parts * parts / free).sum())
    df = variance * variance / below if below > 0 else float(free.min())
    value, se = float(c @ d), math.sqrt(variance)
    half = t_isf(alpha / 2, df) * se if se > 0 else 0.0
    return Weighed(value, se, df, value - half, value + half)


def trend(rungs: Sequence[Rung], alpha: float = 0.05) -> Weighed:
    """Return the change of the effect per decade of compute."""
    x = _places(rungs)
    return contrast(rungs, (x - x.mean()) / _spread(x), alpha)


def curvature(rungs: Sequence[Rung], alpha: float = 0.05) -> Weighed:
    """Return the square's coefficient of a parabola through at least three rungs."""
    return contrast(rungs, _parabola(_places(rungs), 0.0)[1], alpha)


def bends(rungs: Sequence[Rung], alpha: float = 0.05) -> bool:
    """Tell whether three rungs, to which no parabola is fitted, are shown to bend: no form of theirs follows that."""
    return len(rungs) == FEWEST and curvature(rungs).p < alpha


def forms(rungs: Sequence[Rung], at: float, alpha: float = 0.05) -> tuple[Fit, ...]:
    """Return each form that applies, with its interval at x = at."""
    x, top = _places(rungs), rungs[-1]
    line = 1 / len(x) + (at - x.mean()) * (x - x.mean()) / _spread(x)
    fits = [_form("L", contrast(rungs, line, alpha))]
    signs = {math.copysign(1.0, rung.d) for rung in rungs}
    if len(signs) == 1 and all(abs(rung.d) > 2 * math.sqrt(rung.v) for rung in rungs):
        logs = [Rung(r.x, math.log(abs(r.d)), r.s / abs(r.d), r.n) for r in rungs]
        c = contrast(logs, line, alpha)
        ends = [signs.copy().pop() * math.exp(min(e, 700.0)) for e in (c.value, c.low, c.high)]
        fits.append(Fit("P", ends[0], min(ends[1:]), max(ends[1:])))
    fits.append(_form("T", contrast([top], [1.0], alpha)))
    if len(rungs) >= 4 and abs(curvature(rungs, alpha).t) > CURVED:
        fits.append(_form("Q", contrast(rungs, _parabola(x, at)[0], alpha)))
    return tuple(fits)


def reach(rungs: Sequence[Rung], at: float) -> float:
    """Return how far beyond the top rung x = at lies, in lengths of the ladder."""
    x = _places(rungs)
    return float((at - x[-1]) / (x[-1] - x[0]))


def furthest(rungs: Sequence[Rung], share: float = SPOKEN) -> float:
    """Return the x that lies `share` of the ladder's length beyond its top rung."""
    x = _places(rungs)
    return float(x[-1] + share * (x[-1] - x[0]))


def extrapolate(
    rungs: Sequence[Rung],
    at: float,
    *,
    matters: float,
    alpha: float = 0.05,
    arms: int = 1,
    allowance: float = ALLOWANCE,
) -> Reached:
    """Extrapolate the effect to x = at and its word, at alpha / arms. ValueError: too few rungs, a target out of reach.

    rungs: with two seeds or more each, in the order of their compute. matters: as the study's, a difference below it is none.
    """
    _check(rungs)
    far = reach(rungs, at)
    if far < -1e-9 or far > SHOWN + 1e-9:
        raise ValueError(f"x = {at:g} is {far:.2f} ladder lengths beyond the top rung; needed: 0 to {SHOWN:g}")
    fits = forms(rungs, at, alpha / arms)
    more = allowance * abs(rungs[-1].d)
    low, high = min(form.low for form in fits) - more, max(form.high for form in fits) + more
    crossed = bool(turned(rungs, alpha / arms))
    word = word_of(low, high, rungs[-1].d, matters, turned=crossed) if far <= SPOKEN + 1e-9 else None
    return Reached(at, low, high, fits, word, far)


def turned(rungs: Sequence[Rung], alpha: float = 0.05) -> list[Rung]:
    """List lower rungs that are shown on the other side of zero than the top rung's effect, with alpha shared between them."""
    top, each = rungs[-1].d, alpha / max(1, len(rungs) - 1)
    own = [(rung, contrast([rung], [1.0], each)) for rung in rungs[:-1]]
    return [rung for rung, one in own if (one.high < 0 < top) or (top < 0 < one.low)]


def word_of(low: float, high: float, top: float, matters: float, *, turned: bool = False) -> Word:
    """Return the word of an interval at the target.

    top: the effect at the top rung. It is one of the forms, so that of a ladder an interval apart from zero has its sign;
    turned: a lower rung is shown to have the other sign, and the target then reverses what was found there.
    """
    excludes = low > 0 or high < 0
    if excludes and (low > 0) == (top > 0):
        return "reverses" if turned else "holds"
    if -matters < low and high < matters:
        return "fades"
    return "reverses" if excludes else "open"


def next_seed(rungs: Sequence[Rung], at: float, *, alpha: float = 0.05, arms: int = 1) -> list[float]:
    """Return of each rung the share by which the interval at x = at narrows with one seed more, all else the same."""
    now = _width(rungs, at, alpha / arms)
    more = [[replace(r, n=r.n + (i == k)) for i, r in enumerate(rungs)] for k in range(len(rungs))]
    return [1 - _width(one, at, alpha / arms) / now if now > 0 else 0.0 for one in more]


@dataclass(frozen=True)
class Spared:
    """Decades of compute that the arm does without at the top rung (below 0: that it costs); None: no end was found."""

    decades: float
    low: float | None
    high: float | None

    @staticmethod
    def share(decades: float | None) -> float | None:
        """Return 1 - 10^-decades: what is saved of the compute."""
        return None if decades is None else 1 - 10.0**-decades


def saved(
    step: float,
    top: tuple[Sequence[float], Sequence[float]],
    below: Sequence[float],
    alpha: float = 0.05,
    arms: int = 1,
) -> Spared | None:
    """Return the equivalent compute at the top rung: d over the slope of the reference's loss from the rung below.

    step: decades between the two rungs. top: (differences, the reference's scores) by seed; below: the reference's scores on
    the lower rung. The interval is Fieller's: every number of decades that is not rejected, the slope's own error counted.
    None where the reference's loss does not fall.
    """
    d, level = np.asarray(top[0], float), np.asarray(top[1], float)
    lower = np.asarray(below, float)
    slope = (level.mean() - lower.mean()) / step
    if not slope < 0 or min(len(d), len(lower)) < 2:
        return None
    middle = float(d.mean() / slope)

    def rejected(decades: float) -> float:
        """Return |t| less its critical value of the hypothesis that so many decades are saved."""
        parts = (d - decades * level / step, decades * lower / step)
        pair = [Rung(0.0, float(p.mean()), float(p.std(ddof=1)), len(p)) for p in parts]
        weighed = contrast(pair, [1.0, 1.0], alpha / arms)
        return max(weighed.low, -weighed.high)

    return Spared(middle, _end(rejected, middle, -1), _end(rejected, middle, 1))


def _end(rejected: Callable[[float], float], start: float, side: int) -> float | None:
    """Find where `rejected` turns positive on one side of `start`; None within FAR decades."""
    step = 1e-4
    while rejected(start + side * step) <= 0:
        step *= 2
        if step > FAR:
            return None
    near, far = step / 2 if step > 1e-4 else 0.0, step
    for _ in range(60):
        middle = (near + far) / 2
        near, far = (near, middle) if rejected(start + side * middle) > 0 else (middle, far)
    return start + side * far


def _width(rungs: Sequence[Rung], at: float, level: float) -> float:
    fits = forms(rungs, at, level)
    return max(form.high for form in fits) - min(form.low for form in fits)


def _form(name: str, weighed: Weighed) -> Fit:
    return Fit(name, weighed.value, weighed.low, weighed.high)


def _places(rungs: Sequence[Rung]) -> npt.NDArray[np.float64]:
    return np.array([rung.x for rung in rungs])


def _spread(x: npt.NDArray[np.float64]) -> float:
    return float(((x - x.mean()) ** 2).sum())


def _parabola(x: npt.NDArray[np.float64], at: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the rungs' weights in a parabola's value at `at`, and in its curvature; x is centred for the arithmetic."""
    z, centre = x - x.mean(), float(x.mean())
    solved = np.linalg.pinv(np.stack([np.ones_like(z), z, z * z], 1))
    return np.array([1.0, at - centre, (at - centre) ** 2]) @ solved, solved[2]


def _check(rungs: Sequence[Rung]) -> None:
    if len(rungs) < FEWEST:
        raise ValueError(f"{len(rungs)} rungs with two seeds or more; needed: {FEWEST}")
    if any(rung.n < 2 or not (math.isfinite(rung.d) and math.isfinite(rung.s)) for rung in rungs):
        raise ValueError("a rung without two seeds, or without finite numbers; leave it out")
    if any(b.x <= a.x for a, b in zip(rungs, rungs[1:])):
        raise ValueError("rungs must stand in the order of their compute, no two alike")
