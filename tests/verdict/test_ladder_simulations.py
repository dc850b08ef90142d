"""The ladder's promises on a hundred simulated studies per shape; the long form is bench/ladder_simulations.py."""

from __future__ import annotations

import math

import pytest
from bench.ladder_simulations import DESIGNS, LATE, SHAPES, Found, faults, grown, main, sharp, simulate

from ablab.verdict import ladder


def test_the_shapes_and_designs_are_those_promised() -> None:
    assert len(SHAPES) == 10 and LATE in SHAPES
    assert {len(seeds) for seeds in DESIGNS} == {3, 4, 5} and {n for seeds in DESIGNS for n in seeds} == {3, 4, 5, 8}


@pytest.mark.parametrize("off", [0.0, 0.05], ids=["exact", "off"])
@pytest.mark.parametrize("name", SHAPES)
def test_intervals_cover_and_words_are_right(name: str, off: float) -> None:
    for number, seeds in enumerate(((5, 4, 4), (8, 5, 5, 3))):
        assert faults(name, simulate(name, seeds, off, 100, seed=number)) == []


def test_a_broken_promise_is_seen() -> None:
    assert faults("null", Found(1000, 0.93, 0.07, 0.0)) == ["coverage", "wrong words"]
    assert faults(LATE, Found(1000, 0.80, 0.02, 0.0)) == [] and faults(LATE, Found(1000, 0.77, 0.02, 0.0)) == [
        "coverage"
    ]
    assert faults("null", Found(1000, 1 - 0.05 - 2 * math.sqrt(0.05 * 0.95 / 1000) + 1e-9, 0.05, 0.0)) == []


def test_seeds_at_the_top_rung_tell_most() -> None:
    bottom, top = (simulate("power -.15", seeds, 0.0, 200, seed=4).holds for seeds in ((8, 5, 5, 3), (3, 5, 5, 8)))
    assert top > bottom + 0.15
    assert grown("power -.15", (3, 3, 3, 3), 21, 60, seed=5).holds > bottom + 0.1


def test_a_sharp_crossing_beyond_three_rungs_is_not_promised() -> None:
    """What the page of the ladder warns of is so: the wrong word is common there, and a bend is often said beside it."""
    covered, wrong, told = sharp((8, 8, 8), 100, seed=6)
    assert covered < 0.5 and wrong > 0.3 and told > 0.15


def test_a_sign_that_turns_is_said_where_it_is_seen() -> None:
    found = simulate("turning", (8, 8, 8), 0.0, 100, seed=7)
    assert found.reverses > 0.9 and found.wrong == 0
    assert simulate("constant", (8, 8, 8), 0.0, 100, seed=7).reverses == 0


def test_the_long_form_prints_a_line_per_cell(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--studies", "4"])
    lines = capsys.readouterr().out.splitlines()
    rows = 2 * len(SHAPES) * len(DESIGNS)
    failed = sum("FAILED" in line for line in lines)
    assert len(lines) == 2 + rows + len(DESIGNS) + 3 + 1 and lines[-1].startswith(f"{failed} of {rows} lines failed")
    assert code == bool(failed) and failed < 0.05 * rows


def test_the_long_form_fails_where_a_form_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the line alone the interval misses every shape that is none."""
    forms = ladder.forms
    monkeypatch.setattr(ladder, "forms", lambda *given: forms(*given)[:1])
    assert main(["--studies", "4"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert all(any(f" {name} " in line and "FAILED" in line for line in lines) for name in ("power -.5", "plateau"))
