"""The same numbers from other people's code: scipy's t test, statsmodels' Holm, TOST and power; and the tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_studies import V3, V4, V6, near, study
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from ablab.verdict import (
    ArmSpec,
    Decision,
    RunScore,
    at_most_for,
    factorial,
    judge,
    mde,
    plan,
    power,
    seeds_needed,
    smallest_tie,
    two_by_two,
    unpaired,
    weights,
)
from ablab.verdict.interval import outliers
from ablab.verdict.spending import f_two_sided, t_cdf, t_isf

EXACT = 1e-9


def test_interval_is_scipys():
    v = study(V6)
    for name, column in V6.items():
        row = v.rows[name]
        d = np.array(column[: row.seeds])
        level = 1 - 0.05 * v.weights[row.look - 1] / row.m
        found = stats.ttest_1samp(d, 0)
        low, high = found.confidence_interval(level)
        assert (row.low, row.high) == pytest.approx((low, high), rel=1e-8)
        assert row.p == pytest.approx(found.pvalue * row.m / v.weights[row.look - 1], rel=1e-8)


@pytest.mark.parametrize("seed", range(40))
def test_holm_is_statsmodels(seed):
    """One look: the arms whose interval excludes 0 are exactly Holm's rejections of the plain t tests."""
    rng = np.random.default_rng(seed)
    arms = int(rng.integers(1, 8))
    d = rng.standard_normal((arms, 5)) + rng.choice([0.0, 1.5, 3.0], size=(arms, 1))
    base = 50 + rng.standard_normal(5)
    runs = [RunScore("baseline", i, "done", stages={"s": y}) for i, y in enumerate(base)]
    runs += [RunScore(f"a{k}", i, "done", stages={"s": base[i] + d[k, i]}) for k in range(arms) for i in range(5)]
    decision = Decision(stage="s", matters=1e-6, start=5, at_most=5)
    rows = judge(decision, [ArmSpec(f"a{k}") for k in range(arms)], range(5), runs).rows
    p = stats.ttest_1samp(d, 0, axis=1).pvalue
    rejected = multipletests(p, 0.05, method="holm")[0]
    assert [rows[f"a{k}"].word != "inconclusive" for k in range(arms)] == rejected.tolist()


@pytest.mark.parametrize("seed", range(20))
def test_holm_at_a_look_is_statsmodels_on_p_over_w(seed):
    """Every look is Holm on p / w over the arms not yet rejected; arms given up keep their place, with p = 1."""
    rng = np.random.default_rng(1000 + seed)
    d = rng.standard_normal((4, 8)) + rng.choice([0.0, 1.2, 2.0], size=(4, 1))
    base = 50 + rng.standard_normal(8)
    runs = [RunScore("baseline", i, "done", stages={"s": y}) for i, y in enumerate(base)]
    runs += [RunScore(f"a{k}", i, "done", stages={"s": base[i] + d[k, i]}) for k in range(4) for i in range(8)]
    decision = Decision(stage="s", matters=0.01, start=3, at_most=8)
    rows = [judge(decision, [ArmSpec(f"a{k}") for k in range(4)], range(8), runs).rows[f"a{k}"] for k in range(4)]
    rejected: set[int] = set()
    for look, (n, w) in enumerate(zip((3, 5, 8), weights(3, 8), strict=True), start=1):
        left = [k for k in range(4) if k not in rejected]
        if not left:
            break
        p = np.minimum(stats.ttest_1samp(d[left, :n], 0, axis=1).pvalue / w, 1)
        p[[rows[k].look < look for k in left]] = 1
        new = {k for k, r in zip(left, multipletests(p, 0.05, method="holm")[0], strict=True) if r}
        assert new == {k for k in left if rows[k].look == look and rows[k].word != "inconclusive"}
        rejected |= new


def test_tost_is_statsmodels():
    """An equivalent arm passes two one-sided tests at half of its share of alpha, and only then."""
    d = np.array(V4)
    p = ttost_paired(d, np.zeros(5), -0.005, 0.005)[0]
    assert p == near(8.88577e-05)
    assert p < 0.05 * 0.25 / 2
    assert study(V4).rows["a"].word == "equivalent"
    share = weights(3, 8)[0]
    p_first = ttost_paired(d[:3], np.zeros(3), -0.005, 0.005)[0]
    assert p_first > 0.05 * share / 2
    assert study(V4[:3]).rows["a"].word == "inconclusive"


@pytest.mark.parametrize(
    ("e", "n", "w", "m"), [(1.0, 8, 39 / 64, 1), (2.0, 5, 0.25, 3), (0.7, 16, 0.8, 7), (4.0, 3, 1, 1)]
)
def test_power_is_statsmodels(e, n, w, m):
    # its two-sided power adds the other tail, which a direction never earns; one-sided at half the level is ours
    assert power(e, 1.0, n, w, m) == pytest.approx(
        TTestPower().power(e, n, 0.05 * w / (2 * m), alternative="larger"), abs=EXACT
    )


def test_mde_is_the_root_of_power():
    for n, w, m in ((2, 1.0, 1), (3, 9 / 64, 7), (8, 39 / 64, 20), (40, 0.6, 3)):
        e = mde(0.3, n, w, m)
        assert stats.nct.sf(stats.t.isf(0.05 * w / (2 * m), n - 1), n - 1, e * n**0.5 / 0.3) == pytest.approx(
            0.8, abs=1e-9
        )


def test_seeds_needed_is_minimal():
    for d, s in ((0.0, 0.001), (0.004, 0.004), (0.0023, 0.02), (0.02, 0.0001)):
        e = max(abs(d), 0.005 - abs(d))
        n = seeds_needed(d, s, 0.005, 39 / 64, 2)
        assert power(e, s, n, 39 / 64, 2) >= 0.8
        assert n == 2 or power(e, s, n - 1, 39 / 64, 2) < 0.8


def test_seeds_needed_of_absurd_noise_is_a_number():
    assert seeds_needed(0.0, 1e3, 1e-3, 0.6) > 10**12
    assert seeds_needed(0.0, 1e300, 1e-300, 0.6) == 10**15
    assert seeds_needed(0.0, 0.0, 1.0, 0.6) == 2


def test_smallest_tie_by_simulation():
    rng = np.random.default_rng(5)
    n, w, margin = 8, 39 / 64, smallest_tie(1.0, 8, 39 / 64, 1)
    d = rng.standard_normal((40_000, n))
    half = t_isf(0.05 * w / 2, n - 1) * d.std(axis=1, ddof=1) / np.sqrt(n)
    share = (np.abs(d.mean(axis=1)) + half < margin).mean()
    assert share == pytest.approx(0.8, abs=0.03)  # the formula takes s as known in one of its two terms


TABLE = {
    3: ((3.26, 5.67, 8.66, 14.7), (3.57, 5.50, 7.88, 12.6)),
    5: ((1.91, 2.58, 3.23, 4.23), (2.13, 2.71, 3.25, 4.09)),
    8: ((1.29, 1.59, 1.85, 2.20), (1.46, 1.73, 1.96, 2.28)),
    16: ((0.78, 0.92, 1.03, 1.17), (0.90, 1.03, 1.14, 1.27)),
    21: ((0.66, 0.78, 0.86, 0.97), (0.76, 0.88, 0.96, 1.06)),
}


@pytest.mark.parametrize("at_most", TABLE)
def test_planning_table(at_most):
    """MDE and smallest tie in units of s, as printed in the documentation: two decimals, one above ten."""
    for arms, visible, tie in zip((1, 3, 7, 20), *TABLE[at_most], strict=True):
        p = plan(3, at_most, arms, matters=1.0)
        digits = 0.06 if visible > 10 else 0.00501  # 14.647 was printed as 14.65, then as 14.7
        assert p.in_units_of_s
        assert p.mde == pytest.approx(visible, abs=digits)
        assert p.tie == pytest.approx(tie, abs=digits)


@pytest.mark.parametrize(
    ("effect", "needed"),
    [(3, (4, 5, 6)), (2, (5, 7, 8)), (1.5, (7, 9, 10)), (1, (12, 15, 17)), (0.5, (35, 46, 55))],
)
def test_at_most_table(effect, needed):
    assert tuple(at_most_for(effect, 1.0, arms) for arms in (1, 3, 7)) == needed


def test_plan_warns_of_a_tie_that_cannot_be_shown():
    p = plan(3, 8, 3, matters=0.005, sd=0.004)
    assert p.warning == "a tie of this size cannot be shown with 8 seeds"
    assert plan(3, 8, 3, matters=0.005, sd=0.002).warning == ""
    assert plan(3, 8, 3, matters=0.005).warning == ""
    one = plan(1, 1, 1, matters=0.005, sd=0.002)
    assert (one.mde, one.tie, one.warning) == (None, None, "a tie of this size cannot be shown with 1 seeds")


def test_quantiles_are_scipys():
    for q in (0.4, 0.025, 1e-4, 1e-9):
        for df in (1, 2, 7, 3.43):
            assert t_isf(q, df) == pytest.approx(stats.t.isf(q, df), rel=EXACT)
            assert t_cdf(-t_isf(q, df), df) == pytest.approx(q, rel=1e-8)
    assert f_two_sided(3.0, 4, 20) == pytest.approx(2 * stats.f.sf(3.0, 4, 20), rel=EXACT)
    assert f_two_sided(0.2, 4, 20) == pytest.approx(2 * stats.f.cdf(0.2, 4, 20), rel=EXACT)


def test_welch_is_scipys():
    x, y = (3.21, 3.25, 3.22, 3.24), (3.30, 3.28, 3.35)
    u = unpaired(x, y, matters=0.01)
    found = stats.ttest_ind(x, y, equal_var=False)
    low, high = found.confidence_interval(0.95)
    assert (u.low, u.high, u.p, u.df) == pytest.approx((low, high, found.pvalue, found.df), rel=EXACT)


def test_outlier_flag_is_a_deleted_residual():
    d = [*V3[:7], 0.08]
    ((place, p),) = outliers(d)
    others = np.array(d[:7])
    t = (0.08 - others.mean()) / (others.std(ddof=1) * np.sqrt(1 + 1 / 7))
    assert place == 7
    assert p == pytest.approx(8 * 2 * stats.t.sf(t, 6), rel=EXACT)
    row = study(d).rows["a"]
    assert row.seeds == 8  # flagged, not dropped
    assert any(note.startswith("seed 7: outlier") for note in row.notes)
    assert not outliers(V3) and not outliers([0.0, 0.0, 9.0])
    assert [i for i, _ in outliers([1.0, 1.0, 1.0, 2.0])] == [3]


def test_factorial_is_least_squares():
    rng = np.random.default_rng(3)
    cells = {"base": (0, 0), "y10": (1, 0), "y01": (0, 1), "y11": (1, 1)}
    y = {name: 3 + 0.01 * rng.standard_normal(6) for name in cells}
    runs = [RunScore(name, i, "done", stages={"s": v}) for name, column in y.items() for i, v in enumerate(column)]
    decision = Decision(stage="s", matters=0.001, start=6, at_most=6, baseline="base")
    rows = factorial(decision, two_by_two("base", "y10", "y01", "y11"), range(6), runs)
    flat = [(v, a - 0.5, b - 0.5, s) for name, (a, b) in cells.items() for s, v in enumerate(y[name])]
    data = pd.DataFrame(flat, columns=["y", "A", "B", "seed"])
    fit = ols("y ~ A * B + C(seed)", data).fit().params
    assert tuple(row.delta for row in rows.values()) == pytest.approx((fit["A"], fit["B"], fit["A:B"]), rel=1e-8)
