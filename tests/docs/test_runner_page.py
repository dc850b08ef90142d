"""What docs/runner.md shows is what a person sees who does it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests import foreign

from ablab.core import grid
from ablab.judging import collect, history
from ablab.launch import program
from ablab.launch.study import Lab, conclude, silent
from ablab.report.terminal import terminal

PAGE = Path(__file__).resolve().parents[2] / "docs" / "runner.md"


def shown(kind: str) -> list[str]:
    blocks = re.findall(r"(?ms)^```(\w*)\n(.*?)^```", PAGE.read_text(encoding="utf-8"))
    return [text for of, text in blocks if of == kind]


def test_the_example_ends_as_the_page_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [script], [study], [_, output] = shown("python"), shown("toml"), shown("")
    checkout = tmp_path / "program"
    checkout.mkdir()
    (checkout / "train.py").write_text(script)
    for words in (["init"], ["add", "train.py"], ["commit", "--message=A program"]):
        foreign.git(checkout, *words)
    (tmp_path / "wider.toml").write_text(study.replace("python3", foreign.PYTHON))
    plan = Lab(tmp_path / "wider.toml", out=tmp_path / "runs").plan()
    history.begin(plan)
    while runs := collect.wanted(plan):
        for run in runs:
            assert program.do(run, store=plan.store, stop=lambda: False, say=silent) == "done"
    answer = conclude(plan).answer
    capsys.readouterr()
    terminal(answer, grid.console())
    assert [line.rstrip() for line in capsys.readouterr().out.strip().splitlines()] == output.strip().splitlines()
    notes = "\n".join(answer["notes"])
    assert "the program repeats itself" in notes and "the correlation found" in notes
