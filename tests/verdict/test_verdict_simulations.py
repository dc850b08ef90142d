"""The verdict's promises on a few hundred simulated studies per cell; the long form is bench/verdict_simulations.py.

Fixed seeds; every bound carries the Monte-Carlo error of this many studies.
"""

from __future__ import annotations

import pytest
from bench.factorial_simulations import Design
from bench.verdict_simulations import ALPHA, Cell, cells, faults, lived, main, simulate

from bench import factorial_simulations

NULLS = [c for c in cells() if not any(c.effects)]
SHOWN = [c for c in cells() if any(c.effects)]


def test_the_cells_are_those_promised():
    assert {(len(c.effects), c.rho, c.noise) for c in NULLS} == {
        (k, rho, noise) for k in (1, 3, 7) for rho in (0.0, 0.5, 0.87) for noise in ("normal", "t5")
    }
    assert {(len(c.effects), c.effects[0]) for c in SHOWN} >= {(k, -e) for k in (1, 3, 7) for e in (1.0, 1.5, 2.0)}


@pytest.mark.parametrize("cell", NULLS, ids=lambda c: f"{len(c.effects)}-{c.rho}-{c.noise}")
def test_family_error_and_coverage_of_nulls(cell):
    found = simulate(cell, studies=200, seed=11)
    assert faults(cell, found) == []
    assert found.seeds < 8


@pytest.mark.parametrize("cell", SHOWN, ids=lambda c: f"{len(c.effects)}-{c.effects[0]}")
def test_power_is_what_was_planned(cell):
    found = simulate(cell, studies=200, seed=12)
    assert found.planned is not None
    assert faults(cell, found) == []


def test_family_error_of_nulls_taken_together():
    """All 18 null cells in one share: 1,080 studies, an error well below one that ignores looks or arms."""
    share = sum(simulate(c, studies=60, seed=13).family_error for c in NULLS) / len(NULLS)
    assert share <= ALPHA + 2 * (ALPHA * (1 - ALPHA) / (60 * len(NULLS))) ** 0.5
    assert share > 0.01  # and not by never saying anything


def test_a_broken_promise_is_seen():
    cell = Cell((0.0,))
    found = simulate(cell, studies=50, seed=1)
    assert faults(cell, type(found)(1000, 0.08, 0.93, 0.0, None, 8.0)) == ["family error", "coverage"]
    assert faults(cell, type(found)(1000, 0.05, 0.95, 0.6, 0.7, 8.0)) == ["power"]


def test_living_a_study_run_by_run_is_replaying_it():
    assert lived(Cell((-1.5, 0.0, 0.0), 0.5), studies=15, seed=2) == 0


def test_the_long_form_prints_a_line_per_cell(capsys):
    code = main(["--studies", "10"])
    lines = capsys.readouterr().out.splitlines()
    failed = sum("FAILED" in line for line in lines)
    assert len(lines) == 2 + len(cells()) + 3 + 6 + 8 + 2
    assert code == bool(failed) and lines[-1].startswith(f"{failed} of ") and failed < 0.1 * len(cells())


def test_factorials_keep_the_family():
    """Main effects are no lines of the family: they may not add a false word to it, whatever else is true."""
    chosen = [Design((2, 2), matters=0.1), Design((2, 2), (-1.5,), matters=0.1), Design((2, 2), (-2.0, -2.0), 2.5)]
    for number, design in enumerate(chosen):
        found = factorial_simulations.simulate(design, studies=200, seed=20 + number)
        assert found.faults() == []
        assert not any(design.alone) or found.cells_and_pairs <= found.family_error
    assert factorial_simulations.Share(1000, 0.08, 0.05, 0.93, 0.0).faults() == ["family error", "coverage"]
    assert factorial_simulations.false("better", 0.0) and factorial_simulations.false("worse", -1.0)
    assert not factorial_simulations.false("better", -1.0) and not factorial_simulations.false("inconclusive", 0.0)
