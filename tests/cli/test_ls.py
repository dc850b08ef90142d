"""`ablab ls`: what the store says of each study, while one runs and where a verdict is damaged, on terminals of any width."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests import finished_store
from typer.testing import CliRunner

from ablab.cli.main import app
from ablab.core.fault import CheckFailed
from ablab.launch import study as lab
from ablab.runtime.lock import locked


def called(*words: str, columns: int = 200) -> str:
    done = CliRunner().invoke(app, ["ls", *words], env={"COLUMNS": str(columns)}, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_study_is_listed_as_it_stands(tmp_path: Path) -> None:
    plan = finished_store.fill(finished_store.plan(tmp_path))
    answer = lab.conclude(plan).answer
    out = plan.store.root
    (out / "studies" / "begun.large").mkdir()
    damaged = out / "studies" / "damaged"
    damaged.mkdir()
    (damaged / "verdict.json").write_text('{"arms": [')
    found = {row["study"]: row for row in json.loads(called(str(out), "--json"))["studies"]}
    assert list(found) == ["begun", "damaged", answer["study"]]
    assert (found["begun"]["scale"], found["begun"]["state"], found["begun"]["done"]) == ("large", "not judged", None)
    assert found["damaged"]["state"] == "unreadable"
    row = found[answer["study"]]
    assert row["words"] == {
        arm["name"]: arm["word"] for arm in answer["arms"] if arm["name"] != "baseline" and arm["word"]
    }
    assert row["words"] and (row["winner"], row["done"], row["listed"]) == (
        answer["winner"],
        len(plan.runs),
        len(plan.runs),
    )
    assert row["state"] == "judged" and row["judged"][:2] == "20"
    with locked(out / "studies" / "begun.large"):
        now = {one["study"]: one["state"] for one in json.loads(called(str(out), "--json"))["studies"]}
    assert now == {"begun": "running", "damaged": "unreadable", answer["study"]: "judged"}
    for columns in (60, 80, 120):
        text = called(str(out), columns=columns)
        assert all(name in text for name in (answer["study"], "damaged", "unreadable", *row["words"]))
        assert max(map(len, text.splitlines())) <= columns


def test_a_run_that_is_missing_is_told(tmp_path: Path) -> None:
    plan = finished_store.plan(tmp_path)
    first, *_ = plan.runs
    finished_store.finish(plan, *first)
    lab.conclude(plan)
    (row,) = json.loads(called(str(plan.store.root), "--json"))["studies"]
    assert row["state"] == "unfinished" and row["done"] == 1


def test_a_store_without_studies_says_so(tmp_path: Path) -> None:
    out = finished_store.fill(finished_store.plan(tmp_path)).store.root
    assert json.loads(called(str(out), "--json"))["studies"] == [] and "no study was begun" in called(str(out))


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="is no store of runs; name the folder that `ablab run` had as --out"):
        called(str(tmp_path))
