"""One name, several studies, changed and lost data: no page is lost, and none is replaced by one that says less."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import finished_store as made
from typer.testing import CliRunner

from ablab import report as reporting
from ablab.cli.main import app
from ablab.core.fault import CheckFailed, Refused
from ablab.judging import judge, shelf, versions
from ablab.runs import planning
from ablab.runs.corpora import _memo
from ablab.runs.plan import Plan
from ablab.runs.store import Store
from ablab.study import load

ONE = made.STUDY.replace("\n[arm.int5]\nstage.post_quant.compress.bits = 5\n", "")
TEXT = ONE.replace('source = "mock"', 'source = "texts.jsonl"\nvalid_fraction = 0.3')


@pytest.fixture(autouse=True)
def known_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(made.EFFECT, "nope", dict.fromkeys(made.STAGES, 0.011))
    monkeypatch.setitem(made.BYTES, "nope", 15_500)


def written(plan: Plan) -> dict[str, Any]:
    """Every run made and judged, and the pages written."""
    judge.decisions(plan)
    made.fill(plan)
    answer = judge.conclude(plan)
    reporting.write(answer, plan.directory)
    return answer


def texts(folder: Path, lines: int) -> None:
    rows = [json.dumps({"text": f"document {i}: " + f"words and numbers {i * i} of it " * 12}) for i in range(lines)]
    (folder / "texts.jsonl").write_text("\n".join(rows) + "\n")


def real(folder: Path, text: str = TEXT, **how: Any) -> Plan:
    """A plan over a prepared corpus: its keys hold what the data are."""
    return planning.make(load(made.study_file(folder, text)), Store(folder / "runs"), say=lambda _: None, **how)


def questions(folder: Path) -> dict[str, str]:
    pages = [folder / "report.html", *folder.glob("earlier/*/report.html")]
    return {str(page.parent.relative_to(folder)): page.read_text() for page in pages if page.exists()}


def test_two_questions_of_one_name_keep_both_pages(tmp_path: Path) -> None:
    first, folder = made.plan(tmp_path, ONE), tmp_path / "runs/studies/stages"
    written(first)
    nope = ONE.replace("What holds", "What is left").replace("arm.wide", "arm.nope")
    nope = nope.replace("model.d_model = 40", 'model.local.position = "nope"')
    second = made.plan(tmp_path, nope)
    answer = written(second)
    kept = f"earlier/{shelf.version(first)}"
    pages = questions(folder)
    assert pages.keys() == {".", kept}
    assert "What is left" in pages["."] and "What holds" in pages[kept]
    assert (folder / kept / "study.toml").read_text() == ONE and (folder / "study.toml").read_text() == nope
    assert any(note.startswith("another study of this name, judged ") and kept in note for note in answer["notes"])
    written(made.plan(tmp_path, ONE))  # and back again
    pages = questions(folder)
    assert "What holds" in pages["."] and "What is left" in pages[f"earlier/{shelf.version(second)}"]


def test_the_same_study_judged_again_takes_its_own_place(tmp_path: Path) -> None:
    plan = made.plan(tmp_path, ONE)
    written(plan)
    answer = written(made.plan(tmp_path, ONE.replace("What holds", "What stays")))  # texts are no other version
    assert answer["earlier"] == [] and not (plan.directory / "earlier").exists()


def test_a_verdict_without_a_version_is_kept_too(tmp_path: Path) -> None:
    plan = made.plan(tmp_path, ONE)
    written(plan)
    path = plan.directory / "verdict.json"
    old = json.loads(path.read_text())
    del old["version"], old["environment"]
    path.write_text(json.dumps({**old, "question": "What was asked before?"}))
    written(plan)
    [kept] = (plan.directory / "earlier").glob("*/verdict.json")
    assert json.loads(kept.read_text())["question"] == "What was asked before?"


def test_a_report_on_other_data_leaves_the_finished_page(tmp_path: Path) -> None:
    texts(tmp_path, 40)
    plan = real(tmp_path)
    written(plan)
    before = (plan.directory / "report.html").read_text()
    texts(tmp_path, 41)
    said = CliRunner().invoke(app, ["report", str(tmp_path / "study.toml"), "--out", str(tmp_path / "runs")])
    assert isinstance(said.exception, CheckFailed) and "the finished page of another version" in str(said.exception)
    [old], [new] = plan.corpora, real(tmp_path).corpora
    told = re.search(r"the data changed: (.*?) \(it had (.*?)\)", str(said.exception))
    assert told and f"corpus {new[:8]}" in told[1] and f"corpus {old[:8]}" in told[2] and old != new
    assert "Of this version 6 runs" in str(said.exception)
    assert (plan.directory / "report.html").read_text() == before
    changed = real(tmp_path)
    written(changed)  # as `run` does
    assert (plan.directory / f"earlier/{shelf.version(plan)}/report.html").read_text() == before
    texts(tmp_path, 40)
    assert (
        not CliRunner().invoke(app, ["report", str(tmp_path / "study.toml"), "--out", str(tmp_path / "runs")]).exception
    )


def test_a_report_of_an_edited_study_says_which_line_it_was(tmp_path: Path) -> None:
    written(made.plan(tmp_path, ONE))
    edited = made.plan(tmp_path, ONE.replace("model.d_model = 40", "model.d_model = 48"))
    with pytest.raises(CheckFailed, match=r"became `model.d_model = 48` \(it was `model.d_model = 40`\)"):
        versions.guard(edited)
    revised = made.plan(tmp_path, ONE)
    runs = {spot: type(run)(**{**vars(run), "train_key": run.train_key[::-1]}) for spot, run in revised.runs.items()}
    with pytest.raises(CheckFailed, match="its runs have other keys: a component of ablab was revised"):
        versions.guard(replace(revised, runs=runs))
    more = ONE.replace("model.d_model = 40", "model.d_model = 48").replace("[arm.wide]", "[ arm.wide ]")
    assert more.count("[ arm.wide ]") == 1
    with pytest.raises(CheckFailed, match=r"became `model.d_model = 48` \(it was `model.d_model = 40`\)\. Of this"):
        versions.guard(made.plan(tmp_path, more))
    with pytest.raises(CheckFailed, match=r"`\), and 1 more lines differ"):
        versions.guard(made.plan(tmp_path, more + "# a line more\n"))


def test_an_unfinished_page_gives_way(tmp_path: Path) -> None:
    judge.conclude(made.plan(tmp_path, ONE))
    versions.guard(made.plan(tmp_path, ONE.replace("model.d_model = 40", "model.d_model = 48")))


def test_a_report_needs_no_raw_text(tmp_path: Path) -> None:
    texts(tmp_path, 40)
    plan = real(tmp_path)
    before = written(plan)
    (tmp_path / "texts.jsonl").unlink()
    with pytest.raises(Refused):
        real(tmp_path)  # what trains needs it
    said: list[str] = []
    again = real(tmp_path, recall=said.append)
    assert {spot: run.train_key for spot, run in again.runs.items()} == {s: r.train_key for s, r in plan.runs.items()}
    assert len(said) == 1 and "the data cannot be read" in said[0]
    done = CliRunner().invoke(app, ["report", str(tmp_path / "study.toml"), "--out", str(tmp_path / "runs"), "--json"])
    assert done.exception is None and json.loads(done.stdout)["sentence"] == before["sentence"]


def test_data_that_changed_and_then_went_is_recalled_as_it_was_trained_on(tmp_path: Path) -> None:
    texts(tmp_path, 40)
    plan = real(tmp_path)
    texts(tmp_path, 41)
    real(tmp_path, recall=lambda _: None)  # a report looks at it, nothing is trained
    (tmp_path / "texts.jsonl").unlink()
    assert real(tmp_path, recall=lambda _: None).corpora.keys() == plan.corpora.keys()


def test_data_that_was_checked_changed_and_then_went_is_recalled_as_the_finished_runs_had_it(tmp_path: Path) -> None:
    texts(tmp_path, 40)
    plan = real(tmp_path)
    before = written(plan)
    texts(tmp_path, 41)
    assert real(tmp_path).corpora.keys() != plan.corpora.keys()  # as `check` plans, and a `run` that was ended at once
    (tmp_path / "texts.jsonl").unlink()
    said: list[str] = []
    assert real(tmp_path, recall=said.append).corpora.keys() == plan.corpora.keys()
    assert f"the store's corpus {next(iter(plan.corpora))[:8]}" in said[0]
    done = CliRunner().invoke(app, ["report", str(tmp_path / "study.toml"), "--out", str(tmp_path / "runs"), "--json"])
    assert done.exception is None and json.loads(done.stdout)["sentence"] == before["sentence"]


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1}'])
def test_a_damaged_memo_costs_no_run(tmp_path: Path, content: str) -> None:
    texts(tmp_path, 40)
    real(tmp_path)
    memo = tmp_path / "runs/data/asked.json"
    assert len(_memo(memo)) == 1
    memo.write_text(content)
    real(tmp_path)
    assert len(_memo(memo)) == 1
