"""Two groups of independent runs: power by noncentral t, the guarded bank line, pairs of equal seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ablab.verdict import by_seed, guarded, runs_a_side, two_groups


@pytest.mark.parametrize(("n", "effect", "m"), [(2, 5.0, 1), (3, 2.5, 1), (8, 1.5, 3), (40, 0.6, 7)])
def test_power_is_that_of_a_noncentral_t(n: int, effect: float, m: int) -> None:
    df = 2 * n - 2
    c = stats.t.isf(0.05 / (2 * m), df)
    wanted = stats.nct.sf(c, df, effect / math.sqrt(2 / n))
    assert two_groups.power_of_groups(-effect * 0.1, 0.1, n, m) == pytest.approx(wanted, rel=1e-9)


def test_power_agrees_with_trials() -> None:
    rng = np.random.default_rng(7)
    x, y = rng.normal(1.5, 1, (4000, 6)), rng.normal(0, 1, (4000, 6))
    shown = np.mean((found := stats.ttest_ind(x, y, axis=1)).pvalue[found.statistic > 0] < 0.05)
    assert two_groups.power_of_groups(1.5, 1, 6) == pytest.approx(shown, abs=0.03)


@pytest.mark.parametrize("effect", [0.2, 0.43, 1.0, 2.7, 9.0])
def test_runs_a_side_are_the_fewest(effect: float) -> None:
    n = runs_a_side(effect, 1.0)
    assert n is not None and two_groups.power_of_groups(effect, 1, n) >= 0.8
    assert n == 2 or two_groups.power_of_groups(effect, 1, n - 1) < 0.8
    assert two_groups.visible(1, n) <= effect * (1 + 1e-9)
    assert two_groups.power_of_groups(two_groups.visible(1, n), 1, n) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize(("effect", "sd"), [(0.0, 1.0), (1e-9, 1.0), (1.0, 0.0), (math.inf, 1.0), (1.0, math.nan)])
def test_what_no_number_of_runs_settles_has_none(effect: float, sd: float) -> None:
    assert runs_a_side(effect, sd) is None


def test_a_bank_holds_the_spread_up_and_is_worth_eight_runs_at_most() -> None:
    found = guarded(-0.002, 1e-8, 2, 2, sd0=0.0006, d0=math.inf)
    assert found is not None and found.df == 10
    assert found.sd == pytest.approx(math.sqrt((8 * 0.0006**2 + 2 * 1e-8) / 10))
    assert found.t == pytest.approx(-0.002 / found.sd)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(found.t), 10))
    assert (found.low + found.high) / 2 == pytest.approx(-0.002)


def test_a_bank_never_makes_the_own_spread_smaller() -> None:
    found = guarded(-0.002, 0.001**2, 3, 3, sd0=0.0002, d0=5.0)
    assert found is not None and found.sd == pytest.approx(0.001) and found.df == 9


@pytest.mark.parametrize(("d0", "nx"), [(3.9, 3), (math.inf, 1)])
def test_a_bank_of_unlike_configurations_or_a_single_run_gives_no_line(d0: float, nx: int) -> None:
    assert guarded(-0.002, 1e-8, nx, 3, sd0=0.0006, d0=d0) is None


def test_by_seed_is_the_paired_t() -> None:
    x, y = {1: 1.0, 2: 1.1, 3: 0.9, 9: 5.0}, {1: 1.2, 2: 1.25, 3: 1.15, 8: 7.0}
    found, wanted = by_seed(x, y), stats.ttest_rel([1.0, 1.1, 0.9], [1.2, 1.25, 1.15])
    assert (found.seeds, found.df) == ((1, 2, 3), 2)
    assert found.p == pytest.approx(wanted.pvalue) and found.low == pytest.approx(wanted.confidence_interval(0.95).low)


@pytest.mark.parametrize("y", [{}, {1: 1.2}, {1: 1.5, 2: 1.6}])
def test_by_seed_has_no_interval_of_one_pair_or_without_spread(y: dict[int, float]) -> None:
    found = by_seed({1: 1.0, 2: 1.1}, y)
    assert found.seeds == tuple(y) and found.low is found.high is found.p is found.df is None
