"""What docs/runner.md shows is what a person sees who does it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from tests import foreign

from ablab.cli.main import app
from ablab.core import grid
from ablab.judging import collect, history
from ablab.launch import local, program
from ablab.launch.board import Board
from ablab.launch.study import Lab, conclude, silent
from ablab.records.answer import Answer
from ablab.report.terminal import terminal

PAGE = Path(__file__).resolve().parents[2] / "docs" / "runner.md"


def shown(kind: str) -> list[str]:
    blocks = re.findall(r"(?ms)^```(\w*)\n(.*?)^```", PAGE.read_text(encoding="utf-8"))
    return [text for of, text in blocks if of == kind]


def test_the_trial_ends_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [script, _], [output], [words, _] = shown("python"), shown("json"), shown("sh")
    checkout = tmp_path / "program"
    checkout.mkdir()
    (checkout / "train.py").write_text(script)
    for git in (["init"], ["add", "train.py"], ["commit", "--message=A program"]):
        foreign.git(checkout, *git)
    edit, line = words.strip().splitlines()
    subprocess.run(["sh", "-c", edit], cwd=tmp_path, check=True)
    monkeypatch.setattr(local, "execute", in_process)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert not app([*shlex.split(line.replace("python3", foreign.PYTHON))[1:]], standalone_mode=False)
    found, said = json.loads(capsys.readouterr().out), json.loads(output)
    assert found.keys() == said.keys()
    own = {"trial", "commit", "patch", "seconds", "study", "page"}  # of the day, the author and the folder
    assert {key: found[key] for key in found.keys() - own} == {key: said[key] for key in said.keys() - own}


def test_the_research_loop_keeps_what_pays_and_takes_back_what_does_not(tmp_path: Path) -> None:
    """Three proposals: one that pays, one that changes nothing that is run, one that fails."""
    [script, _], [_, loop] = shown("python"), shown("sh")
    checkout = tmp_path / "program"
    checkout.mkdir()
    (checkout / "train.py").write_text(script)
    for git in (["init"], ["add", "train.py"], ["commit", "--message=A program"]):
        foreign.git(checkout, *git)
    proposals = """
    ablab() { PYTHON_ -P -m ablab "$@"; }
    propose() {
        n=$((n + 1))
        case $n in
            1) sed -i 's/"n_embd", 384/"n_embd", 512/' train.py;;
            2) echo '# a remark' >> train.py;;
            3) echo 'raise SystemExit(1)' > train.py; touch left.txt;;
            *) return 1;;
        esac
    }
    """.replace("PYTHON_", foreign.PYTHON)
    who = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["sh", "-c", proposals + loop.replace("python3", foreign.PYTHON)], cwd=tmp_path, env={**os.environ, **who},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["word"] for one in told] == ["better", "equivalent", "invalid"] and told[2]["faults"], done.stderr
    log = subprocess.run(["git", "log", "--format=%s"], cwd=checkout, capture_output=True, text=True, check=True).stdout
    assert log.split("\n")[:2] == ["keep", "A program"]
    assert (checkout / "train.py").read_text() == script.replace('"n_embd", 384', '"n_embd", 512')
    assert not (checkout / "left.txt").exists()


def in_process(board: Board, **_: object) -> None:
    while runs := collect.wanted(board.plan):
        for run in runs:
            board.progress("start", run, "")
            kind = program.do(run, store=board.plan.store, stop=lambda: False, say=silent)
            board.ended(run, kind, "", seconds=0.0, alone=True)


def printed(folder: Path, name: str, script: str, study: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, Answer]:
    """What the terminal shows of a page's study over a page's script, each line without blanks at its end; and the answer."""
    checkout = folder / "program"
    checkout.mkdir()
    (checkout / name).write_text(script)
    for words in (["init"], ["add", name], ["commit", "--message=A program"]):
        foreign.git(checkout, *words)
    (folder / "study.toml").write_text(study.replace("python3", foreign.PYTHON))
    plan = Lab(folder / "study.toml", out=folder / "runs").plan()
    history.begin(plan)
    while runs := collect.wanted(plan):
        for run in runs:
            assert program.do(run, store=plan.store, stop=lambda: False, say=silent) == "done"
    answer = conclude(plan).answer
    capsys.readouterr()
    terminal(answer, grid.console())
    return "\n".join(line.rstrip() for line in capsys.readouterr().out.strip().splitlines()), answer


def test_the_example_ends_as_the_page_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (script, _), (study, _), (_, output, _) = shown("python"), shown("toml"), shown("")
    said, answer = printed(tmp_path, "train.py", script, study, capsys)
    assert said == output.strip()
    notes = "\n".join(answer["notes"])
    assert "the program repeats itself" in notes and "the correlation found" in notes


def test_the_factorial_over_arguments_ends_as_the_page_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (_, script), (_, study), (_, _, output) = shown("python"), shown("toml"), shown("")
    said, answer = printed(tmp_path, "both.py", script, study, capsys)
    assert output.strip() in said
    [crossed] = answer["factorials"]
    assert crossed["sentence"] == output.strip().splitlines()[-1]
    words = {arm["name"]: arm["word"] for arm in answer["arms"] if arm["name"] != "baseline"}
    assert words == dict.fromkeys(("n_layer=8", "n_embd=512", "n_embd=512,n_layer=8"), "better")
