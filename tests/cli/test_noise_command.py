"""`ablab power` and `ablab noise`: the planner and the bank, on terminals of any width."""

from __future__ import annotations

import json
import sys

import pytest

from ablab.cli import main as cli
from ablab.verdict import planning, visible, weights

WIDTHS = (60, 80, 120)


def called(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["ablab", *words])
    code: object = 0
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code
    out, err = capsys.readouterr()
    return int(str(code or 0)), out, err


def test_power_is_the_planners(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("power", "--sd", "0.0012", "--effect", "0.001", "--arms", "3", "--json")
    found = json.loads(called(capsys, monkeypatch, *asked)[1])
    assert found["needed"] == planning.at_most_for(0.001, 0.0012, 3) and found["paired"]
    row = next(row for row in found["rows"] if row["seeds"] == 8)
    w = weights(3, 8)[-1]
    assert row["looks"] == [3, 5, 8] and row["power"] == planning.power(0.001, 0.0012, 8, w, 3)
    assert row["visible"] == visible.mde(0.0012, 8, w, 3) and row["tie"] == visible.smallest_tie(0.0012, 8, w, 3)


def test_power_of_groups_is_asked_for(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("power", "--sd", "0.00078", "--effect", "0.0003335", "--unpaired", "--seeds", "87", "--json")
    found = json.loads(called(capsys, monkeypatch, *asked)[1])
    assert (found["needed"], found["paired"], len(found["rows"])) == (87, False, 1)
    assert 0.80 <= found["rows"][0]["power"] < 0.81 and found["rows"][0]["tie"] is None


def test_what_no_study_shows_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for more in ((), ("--unpaired",)):
        _, out, _ = called(capsys, monkeypatch, "power", "--sd", "1", "--effect", "1e-5", *more)
        assert out.startswith("more than a million")


@pytest.mark.parametrize("words", [("--sd", "0", "--effect", "1"), ("--sd", "1", "--effect", "nan")])
def test_numbers_that_plan_nothing_are_refused(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = called(capsys, monkeypatch, "power", *words)
    assert (code, out) == (2, "") and "is not above 0" in err


def test_a_family_comes_with_its_sources(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = called(capsys, monkeypatch, "noise", "modded_350m")
    assert code == 0 and "KellerJordan/modded-nanogpt at f411b3d346aa (MIT)" in out and "11-02-Smear-MTP" in out
    assert "sp8192" not in out
    code, out, err = called(capsys, monkeypatch, "noise", "modded_350")
    assert (code, out) == (2, "") and "did you mean 'modded_350m'" in err


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "words",
    [
        ("noise",),
        ("noise", "sp8192_caseops"),
        ("noise", "modded_124m"),
        ("power", "--sd", "0.0012", "--effect", "0.001", "--arms", "7"),
        ("power", "--sd", "1e-7", "--effect", "1e-8", "--unpaired", "--seeds", "1000000"),
    ],
    ids=" ".join,
)
def test_it_fits(
    words: tuple[str, ...], width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    _, out, _ = called(capsys, monkeypatch, *words)
    assert max(map(len, out.splitlines())) <= width
    monkeypatch.setenv("COLUMNS", "1000")
    whole = set(called(capsys, monkeypatch, *words)[1].split())
    pieces = "".join(out.split())
    assert all("".join(word.split()) in pieces for word in whole)
