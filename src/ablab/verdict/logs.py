"""Logs of others: unpaired comparison, and the rules by which public records are accepted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ablab.verdict.interval import Sample, summary, word_of
from ablab.verdict.rows import as_plain
from ablab.verdict.spending import t_cdf, t_isf

RULES = ("golf-strict", "golf-frontier", "speedrun", "track3")
GOLF_MARGIN = 0.005  # nats per token, of golf-strict
TARGET = 3.28  # nats per token, the line of speedrun and track3 (GPT-2 small); modded-nanogpt's medium track has 2.92


@dataclass(frozen=True)
class Unpaired:
    """mean(x) - mean(y) of independent runs; nx and ny are printed because unequal spreads cheat at small n."""

    word: str
    delta: float | None
    nx: int
    ny: int
    low: float | None = None
    high: float | None = None
    p: float | None = None
    se: float | None = None
    df: float | None = None
    c: float | None = None
    m: int = 1
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return a plain dict; null in place of missing numbers."""
        plain = as_plain(self)
        assert isinstance(plain, dict)
        return plain


@dataclass(frozen=True)
class Record:
    """Whether a public rule accepts x as a record, with the numbers it was read off; value is track3's own."""

    rule: str
    record: bool
    nx: int
    ny: int | None = None
    margin: float | None = None
    a: float | None = None
    t: float | None = None
    df: float | None = None
    p: float | None = None
    value: float | None = None
    target: float | None = None
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return a plain dict; null in place of missing numbers."""
        plain = as_plain(self)
        assert isinstance(plain, dict)
        return plain


def unpaired(
    x: Sequence[float],
    y: Sequence[float],
    *,
    matters: float,
    confidence: float = 0.95,
    m: int = 1,
    seeds_x: Sequence[int] | None = None,
    seeds_y: Sequence[int] | None = None,
) -> Unpaired:
    """Compute Welch's interval of mean(x) - mean(y), lower is better. Same-seed repeats on a side count once.

    A seed number shared by x and y is not a pair. Raises ValueError if matters, confidence or m make no sense.
    """
    if not (matters > 0 and math.isfinite(matters) and 0 < confidence < 1 and m >= 1):
        raise ValueError(
            f"unpaired: matters = {matters}, confidence = {confidence}, m = {m}; "
            "needed: matters > 0, 0 < confidence < 1, m >= 1"
        )
    a, b, notes = _side("x", x, seeds_x), _side("y", y, seeds_y), ["unpaired"]
    delta = a.d - b.d if a.d is not None and b.d is not None else None
    welch = _welch(a, b)
    if welch is None or delta is None or not math.isfinite(delta):
        short = a.n < 2 or b.n < 2
        notes.append("fewer than two runs on a side" if short else "no spread on either side, or numbers out of range")
        return Unpaired("inconclusive", delta, a.n, b.n, m=m, notes=tuple(notes))
    se, df = welch
    c = t_isf((1 - confidence) / (2 * m), df)
    low, high = delta - c * se, delta + c * se
    p = min(1.0, 2 * t_cdf(-abs(delta) / se, df) * m)
    return Unpaired(word_of(low, high, matters), delta, a.n, b.n, low, high, p, se, df, c, m, tuple(notes))


def record(
    rule: Literal["golf-strict", "golf-frontier", "speedrun", "track3"],
    x: Sequence[float],
    y: Sequence[float] | None = None,
    *,
    metric: Literal["nats_per_token", "bits_per_byte"] = "nats_per_token",
    bits_per_nat: float | None = None,
    seeds_x: Sequence[int] | None = None,
    seeds_y: Sequence[int] | None = None,
    target: float | None = None,
) -> Record:
    """Apply a record rule to the runs x, against the reference runs y for the golf rules.

    metric: the unit of x and y; bits_per_nat of the reference's set turns golf-strict's margin of 0.005 nats per token
    into bits per byte. target: the loss that speedrun and track3 hold x against, in nats per token; none is 3.28, and
    2.92 is speedrun's medium track. Raises ValueError for an unknown rule or metric, a missing or useless y or target,
    missing bits_per_nat.
    """
    if rule not in RULES:
        raise ValueError(f"record rule {rule!r} is unknown; known: {', '.join(RULES)}")
    if metric not in ("nats_per_token", "bits_per_byte"):
        raise ValueError(f"record: metric {metric!r} is unknown; use nats_per_token or bits_per_byte")
    a, held = _side("x", x, seeds_x), TARGET if target is None else target
    if target is not None and rule not in ("speedrun", "track3"):
        raise ValueError(f"record: {rule} compares with runs and holds no target; leave target out")
    if not (held > 0 and math.isfinite(held)):
        raise ValueError(f"record: target = {held} is no loss in nats per token; give a number above 0")
    if rule in ("speedrun", "track3"):
        if y is not None or metric != "nats_per_token":
            raise ValueError(f"record: {rule} holds x in nats_per_token against {held:g}; give no y")
        return _speedrun(a, held) if rule == "speedrun" else _track3(a, held)
    if y is None:
        raise ValueError(f"record: {rule} compares with the runs of a reference; give y")
    margin, level = (GOLF_MARGIN, 0.01) if rule == "golf-strict" else (0.0, 0.25)
    if margin and metric == "bits_per_byte":
        if not (bits_per_nat and bits_per_nat > 0):
            raise ValueError("record: golf-strict's margin is in nats per token; for bits_per_byte give bits_per_nat")
        margin *= bits_per_nat
    return _golf(rule, a, _side("y", y, seeds_y), margin, level)


def _golf(rule: str, a: Sample, b: Sample, margin: float, level: float) -> Record:
    welch = _welch(a, b)
    if welch is None or a.d is None or b.d is None:
        return Record(rule, False, a.n, b.n, margin, level, notes=("too few runs or no spread: not tested",))
    se, df = welch
    t = (a.d - b.d + margin) / se
    p = t_cdf(t, df)
    notes = () if a.n >= 3 else ("a record needs three runs",)
    return Record(rule, p < level and a.n >= 3, a.n, b.n, margin, level, t, df, p, notes=notes)


def _speedrun(a: Sample, target: float) -> Record:
    if a.n < 2 or a.d is None or not a.s:
        return Record("speedrun", False, a.n, a=0.01, target=target, notes=("too few runs or no spread: not tested",))
    t = (a.d - target) * math.sqrt(a.n) / a.s
    p = t_cdf(t, a.n - 1)
    return Record("speedrun", p < 0.01, a.n, a=0.01, t=t, df=a.n - 1, p=p, target=target)


def _track3(a: Sample, target: float) -> Record:
    if a.d is None:
        return Record("track3", False, a.n, target=target, notes=("no runs: not tested",))
    value = (target - a.d) * math.sqrt(a.n)
    return Record("track3", value >= 0.004, a.n, margin=0.004, value=value, target=target)


def _side(name: str, values: Sequence[float], seeds: Sequence[int] | None) -> Sample:
    """Return mean and spread over different seeds; repeats of a seed are averaged into one value."""
    numbers = [float(v) for v in values]
    if seeds is not None:
        if len(seeds) != len(numbers):
            raise ValueError(f"{name}: {len(numbers)} values and {len(seeds)} seeds; give one seed per value")
        groups: dict[int, list[float]] = {}
        for seed, value in zip(seeds, numbers, strict=True):
            groups.setdefault(seed, []).append(value)
        numbers = [sum(g) / len(g) for g in groups.values()]
    return summary(numbers, numbers)


def _welch(a: Sample, b: Sample) -> tuple[float, float] | None:
    """Return (se, df) of the difference of two means; None below two runs on a side or without any spread."""
    if a.n < 2 or b.n < 2 or a.s is None or b.s is None:
        return None
    va, vb = a.s * a.s / a.n, b.s * b.s / b.n
    total = va + vb
    if not (total > 0 and math.isfinite(total)):
        return None
    # shares instead of squares of variances: those underflow
    df = 1 / ((va / total) ** 2 / (a.n - 1) + (vb / total) ** 2 / (b.n - 1))
    return math.sqrt(total), df
