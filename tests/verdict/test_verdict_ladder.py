"""The ladder's arithmetic: worked vectors, public ladders, what it refuses, and properties that hold for any rungs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ablab.verdict import ladder
from ablab.verdict.ladder import Rung

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "ladder.json").read_text())
FOUR = [
    Rung(0.0, -0.030, 0.005, 8),
    Rung(0.6, -0.024, 0.004, 5),
    Rung(1.2, -0.020, 0.0045, 5),
    Rung(1.8, -0.0165, 0.004, 3),
]


def rungs(x: list[float], mean: list[float], sd: list[float], n: list[int]) -> list[Rung]:
    return [Rung(*one) for one in zip(x, mean, sd, n, strict=True)]


@pytest.mark.parametrize("vector", GOLDEN["vectors"], ids=lambda v: f"{len(v['x'])} at {v['target']}, {v['allowance']}")
def test_vectors_hold_to_every_digit(vector: dict[str, Any]) -> None:
    made = rungs(vector["x"], vector["mean"], vector["sd"], vector["n"])
    found = ladder.extrapolate(made, vector["target"], matters=0.001, allowance=vector["allowance"])
    assert (found.low, found.high) == pytest.approx((vector["low"], vector["high"]), rel=1e-12)
    assert [f.name for f in found.forms] == (["L", "T"] if "note" in vector else ["L", "P", "T"])


def public(name: str, sd: float = 0.001) -> tuple[list[Rung], float, float]:
    """The rungs below the top one as if their noise were known, the place of the top one and what was found there."""
    row = GOLDEN["real"][name]
    x = [math.log10(c) for c in row["C"]] if "C" in row else [2 * math.log10(n) for n in row["N"]]
    known = 1000  # as many as make the t quantile a normal one
    below = [Rung(a, d, sd * math.sqrt(known), known) for a, d in zip(x[:-1], row["delta"][:-1])]
    return below, x[-1], row["delta"][-1]


@pytest.mark.parametrize("name", GOLDEN["real"])
def test_public_ladders_hold_their_own_top_rung_but_for_a_late_crossing(name: str) -> None:
    below, at, truth = public(name)
    assert 0.4 < ladder.reach(below, at) < 0.55, "twice as far as a word may reach"
    found = ladder.forms(below, at)
    more = ladder.ALLOWANCE * abs(below[-1].d)
    inside = min(f.low for f in found) - more <= truth <= max(f.high for f in found) + more
    assert inside == ("Cautious" not in name)


def test_a_line_alone_misses_what_muon_kept() -> None:
    below, at, truth = public("marin Muon minus AdamW")
    line = ladder.forms(below, at)[0]
    assert line.name == "L" and line.value == pytest.approx(-0.0023, abs=5e-4) and not line.low <= truth <= line.high


def test_weights_are_those_of_least_squares_whatever_the_data_say() -> None:
    x = [rung.x for rung in FOUR]
    for at in (1.8, 2.25):
        line = ladder.forms(FOUR, at)[0]
        assert line.value == pytest.approx(np.polyval(np.polyfit(x, [r.d for r in FOUR], 1), at), rel=1e-12)
    assert ladder.trend(FOUR).value == pytest.approx(np.polyfit(x, [r.d for r in FOUR], 1)[0], rel=1e-12)
    assert ladder.curvature(FOUR).value == pytest.approx(np.polyfit(x, [r.d for r in FOUR], 2)[0], rel=1e-10)


def test_degrees_of_freedom_are_welchs_of_two_rungs() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 5), rng.normal(0, 3, 9)
    pair = [Rung(0.0, a.mean(), a.std(ddof=1), 5), Rung(1.0, b.mean(), b.std(ddof=1), 9)]
    found, known = ladder.contrast(pair, [1.0, -1.0], 0.05), stats.ttest_ind(a, b, equal_var=False)
    assert found.df == pytest.approx(known.df, rel=1e-12) and found.p == pytest.approx(known.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx(tuple(known.confidence_interval(0.95)), rel=1e-9)


def test_a_parabola_is_asked_only_of_four_rungs_that_bend() -> None:
    bent = [Rung(x, -0.01 * x * x, 0.001, 4) for x in (0.0, 1.0, 2.0, 3.0)]
    assert [f.name for f in ladder.forms(bent, 3.5)] == ["L", "T", "Q"]
    assert ladder.forms(bent, 3.5)[-1].value == pytest.approx(-0.01 * 3.5**2)
    assert "Q" not in [f.name for f in ladder.forms(bent[1:], 3.5)]
    straight = [Rung(x, -0.01 * x, 0.001, 4) for x in (1.0, 2.0, 3.0, 4.0)]
    assert "Q" not in [f.name for f in ladder.forms(straight, 4.5)]


def test_a_power_is_asked_only_of_effects_of_one_sign_that_are_seen() -> None:
    made = [Rung(x, 0.02 * 10 ** (-0.3 * x), 0.001, 4) for x in (0.0, 1.0, 2.0)]
    found = {f.name: f for f in ladder.forms(made, 2.5)}
    assert found["P"].value == pytest.approx(0.02 * 10 ** (-0.3 * 2.5)) and 0 < found["P"].low < found["P"].high
    turned = {f.name: f for f in ladder.forms([Rung(r.x, -r.d, r.s, r.n) for r in made], 2.5)}
    assert (turned["P"].low, turned["P"].high) == pytest.approx((-found["P"].high, -found["P"].low))
    unseen = [*made[:2], Rung(2.0, 0.0009, 0.001, 4)]
    assert "P" not in [f.name for f in ladder.forms(unseen, 2.5)]


def test_arms_share_the_error() -> None:
    one, seven = (ladder.extrapolate(FOUR, 2.0, matters=0.001, arms=m) for m in (1, 7))
    assert seven.low < one.low and seven.high > one.high
    alone = ladder.extrapolate(FOUR, 2.0, matters=0.001, alpha=0.05 / 7)
    assert (alone.low, alone.high) == (seven.low, seven.high)


def test_a_word_reaches_a_quarter_an_interval_a_half_and_nothing_further() -> None:
    assert ladder.furthest(FOUR) == pytest.approx(2.25) and ladder.furthest(FOUR, ladder.SHOWN) == pytest.approx(2.7)
    assert ladder.extrapolate(FOUR, 2.25, matters=0.001).word == "holds"
    assert ladder.extrapolate(FOUR, 2.26, matters=0.001).word is None
    assert ladder.extrapolate(FOUR, 2.7, matters=0.001).low < 0
    for at in (2.71, 1.79):
        with pytest.raises(ValueError, match="beyond the top rung; needed: 0 to"):
            ladder.extrapolate(FOUR, at, matters=0.001)


@pytest.mark.parametrize(
    ("low", "high", "top", "word"),
    [
        (-0.02, -0.01, -0.02, "holds"),
        (0.01, 0.02, 0.02, "holds"),
        (-0.002, -0.001, -0.02, "holds"),
        (-0.002, 0.004, -0.02, "fades"),
        (0.001, 0.004, -0.02, "fades"),
        (0.001, 0.02, -0.02, "reverses"),
        (-0.02, -0.001, 0.02, "reverses"),
        (-0.006, 0.001, -0.02, "open"),
        (-0.005, 0.004, -0.02, "open"),
    ],
)
def test_words(low: float, high: float, top: float, word: str) -> None:
    assert ladder.word_of(low, high, top, 0.005) == word
    kept = ladder.word_of(low, high, top, 0.005, turned=True)
    assert kept == ("reverses" if word == "holds" else word)


def test_a_lower_rung_shows_the_other_sign_or_does_not() -> None:
    x = (0.0, 0.6, 1.2)
    shown = [Rung(at, d, 0.002, 8) for at, d in zip(x, (0.02, 0.001, -0.02))]
    assert ladder.turned(shown) == shown[:1]
    assert ladder.extrapolate(shown, 1.4, matters=0.001).word == "reverses"
    hidden = [Rung(x[0], 0.02, 0.05, 8), *shown[1:]]
    assert ladder.turned(hidden) == []
    # two lower rungs share alpha: shown at .05 and not at .025
    t = stats.t.isf(0.02, 7)
    between = [Rung(x[0], t * 0.01 / math.sqrt(8), 0.01, 8), Rung(x[1], 0.0, 0.01, 8), shown[2]]
    assert ladder.turned(between) == [] and ladder.turned(between, 0.1) == between[:1]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (FOUR[:2], "2 rungs with two seeds or more; needed: 3"),
        ([*FOUR[:3], Rung(1.8, -0.01, 0.0, 1)], "a rung without two seeds"),
        ([FOUR[0], FOUR[0], FOUR[1]], "no two alike"),
        ([*FOUR[:2], Rung(1.8, math.nan, 0.1, 4)], "without finite numbers"),
    ],
)
def test_what_is_no_ladder_is_refused(made: list[Rung], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ladder.extrapolate(made, 1.8, matters=0.001)


def test_a_seed_tells_most_where_the_interval_hangs_on_it() -> None:
    level = [Rung(x, -0.02, 0.004, 4) for x in (0.0, 1.0, 2.0)]
    gains = ladder.next_seed(level, 2.5)
    assert max(gains) == gains[2] and gains[2] > 0.05
    assert ladder.next_seed([Rung(r.x, r.d, 0.0, r.n) for r in level], 2.5) == [0.0, 0.0, 0.0]


def test_compute_saved_is_the_effect_over_the_slope_with_fiellers_interval() -> None:
    rng = np.random.default_rng(3)
    level, below = 3.0 + 1e-6 * rng.standard_normal(6), 3.3 + 1e-6 * rng.standard_normal(6)
    d = -0.03 + 0.004 * rng.standard_normal(6)
    found = ladder.saved(0.6, (d, level), below)
    assert found is not None and found.low is not None and found.high is not None
    half = stats.t.isf(0.025, 5) * d.std(ddof=1) / math.sqrt(6)
    ends = [(d.mean() + side * half) / (-0.3 / 0.6) for side in (1, -1)]
    assert (found.low, found.high) == pytest.approx(ends, rel=1e-3), "a slope without noise leaves the t interval"
    assert found.decades == pytest.approx(d.mean() / -0.5, rel=1e-4)
    assert ladder.Spared.share(found.decades) == pytest.approx(1 - 10**-found.decades)
    assert ladder.Spared.share(None) is None


def test_compute_saved_covers_its_truth_where_the_slope_is_noisy() -> None:
    rng, hits, studies = np.random.default_rng(5), 0, 400
    for _ in range(studies):
        level, below = 3.0 + 0.05 * rng.standard_normal(5), 3.3 + 0.05 * rng.standard_normal(5)
        found = ladder.saved(0.6, (-0.03 + 0.01 * rng.standard_normal(5), level), below)
        assert found is not None
        hits += (found.low is None or found.low <= 0.06) and (found.high is None or found.high >= 0.06)
    assert hits / studies >= 0.95 - 2 * math.sqrt(0.95 * 0.05 / studies)


def test_nothing_is_saved_where_more_compute_does_not_help() -> None:
    assert ladder.saved(0.6, ([-0.1, -0.2], [3.0, 3.1]), [2.9, 2.95]) is None
    noise = ladder.saved(0.6, ([-0.1, 0.2], [3.0, 3.1]), [3.0, 3.3])
    assert noise is not None and noise.low is None and noise.high is None
