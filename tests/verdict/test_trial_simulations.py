"""The rates of `ablab trial` on a hundred simulated changes per kind; the long form is bench/trial_simulations.py."""

from __future__ import annotations

import pytest
from bench.trial_simulations import SEEDS, Cell, Rates, cells, faults, lived, loop, main, simulate


@pytest.mark.parametrize("effect", [0.0, -1.5, 1.5])
def test_a_change_is_kept_at_the_stated_rates(effect: float) -> None:
    found = simulate(Cell(effect, 0.5), 100, seed=21)
    assert faults(effect, found) == [] and found.runs < 2 * SEEDS
    assert found.kept > 0.5 if effect < 0 else found.kept < 0.08


def test_neither_an_end_of_time_nor_a_loop_keeps_what_does_nothing() -> None:
    ended = simulate(Cell(0.0, time_ends=True), 100, seed=22)
    assert faults(0.0, ended) == [] and faults(0.0, loop(100, seed=23)) == []
    assert 0 < simulate(Cell(-2.0, time_ends=True), 50, seed=24).kept < simulate(Cell(-2.0), 50, seed=24).kept


def test_time_that_is_up_before_the_first_look_says_nothing() -> None:
    runs = {
        "baseline": [5.0 + 0.01 * seed for seed in range(SEEDS)],
        "candidate": [1.0 + 0.02 * seed for seed in range(SEEDS)],
    }
    assert lived(runs, 0.1) == ("better", 6)
    assert lived(runs, 0.1, most=5)[0] != "better" and lived(runs, 0.1, most=0)[0] != "better"


def test_a_broken_promise_is_seen() -> None:
    assert faults(0.0, Rates(500, 0.04, 0.08, None, 9.0)) == ["words", "kept"]
    assert faults(0.0, Rates(500, 0.025, 0.05, None, 9.0)) == []
    assert faults(1.5, Rates(500, 0.05, 0.9, None, 9.0)) == ["kept"]
    assert faults(-1.5, Rates(500, 0.70, 0.7, 0.80, 9.0)) == ["power"]


def test_the_long_form_prints_a_line_per_cell(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--trials", "3"])
    assert code in (0, 1) and len(capsys.readouterr().out.splitlines()) == 2 + len(cells()) + 1 + 1
