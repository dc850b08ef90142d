"""Runs that were given up for infrastructure: of which plan, and who has them tried again."""

from __future__ import annotations

import json
from pathlib import Path

from tests import finished_store as made
from tests.finished_store import STUDY

from ablab.judging.judge import conclude
from ablab.runs import given_up
from ablab.runs.plan import Plan


def statuses(plan: Plan) -> list[str]:
    return [row["status"] for row in conclude(plan)["runs"] if row["arm"] == "wide"]


def test_what_was_given_up_of_an_edited_study_is_not_failed_in_this_one(tmp_path: Path) -> None:
    plan = made.plan(tmp_path)
    given_up.give_up(plan, plan.runs["wide", 0], "no memory")
    assert statuses(plan) == ["failed"] and [row["fault"] for row in plan.failures()] == ["no memory"]
    edited = made.plan(tmp_path, STUDY.replace("model.d_model = 40", "model.d_model = 48"))
    assert statuses(edited) == [] and edited.failures() == []
    given_up.give_up(edited, edited.runs["wide", 1], "no disk")
    given_up.try_again(edited)
    assert edited.failures() == [] and statuses(made.plan(tmp_path)) == ["failed"]
    staged = made.plan(tmp_path, STUDY.replace("bits = 6", "bits = 7"))  # the same training, another stage
    assert staged.failures() == []
    given_up.try_again(plan)
    assert statuses(plan) == []


def test_a_list_that_does_not_say_of_which_runs_it_is_fails_none(tmp_path: Path) -> None:
    plan = made.plan(tmp_path)
    plan.directory.mkdir(parents=True)
    (plan.directory / "failed.json").write_text(json.dumps([{"arm": "wide", "seed": 0, "fault": "no memory"}]))
    assert plan.failures() == [] and statuses(plan) == []
